"""Several processes on one port: supervision, reloads and metrics across them."""
