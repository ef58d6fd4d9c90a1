"""Carry's offline package: trains recurrent networks with PyTorch and writes them as model folders."""

import service  # noqa: F401  before ONNX Runtime: it turns its telemetry off
