"""From data to a model folder: one file for each kind."""
