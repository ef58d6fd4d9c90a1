"""Several processes on one port, and reloads across them."""
