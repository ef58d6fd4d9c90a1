"""Carry from Python: models in this process, without a server, and forecasts of files."""

import service  # noqa: F401  before ONNX Runtime: it turns its telemetry off
