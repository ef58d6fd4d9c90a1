"""The engine: batched steps of an ONNX graph and who runs in them. Knows nothing of text, series or HTTP."""
