"""Measurements of whole servers over HTTP."""
