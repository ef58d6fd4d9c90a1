"""Trained networks written as ONNX graphs."""
