"""Carry's service: loads model folders and serves their predictions over HTTP. Never imports torch or training."""

import os

# ONNX Runtime's wheels send telemetry, on a thread of its own, unless this is set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

DISTRIBUTION = "carry-rnn"
"""The name to install. On PyPI, `carry` is a project of somebody else."""
