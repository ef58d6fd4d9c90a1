"""Measurements of whole servers over HTTP."""

import service  # noqa: F401  before ONNX Runtime: it turns its telemetry off
