"""Carry's service: loads model folders and serves their predictions over HTTP. Never imports torch or training."""
