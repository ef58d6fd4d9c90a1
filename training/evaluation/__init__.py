"""What a model is measured on, with what, and against what."""
