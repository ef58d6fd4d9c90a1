"""The HTTP layer: one file per resource. The only place that imports FastAPI, besides app.py."""
