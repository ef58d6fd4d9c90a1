"""The networks, and the arithmetic that PyTorch and ONNX share."""
