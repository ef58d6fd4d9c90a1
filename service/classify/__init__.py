"""Classifiers: their manifest, task, inputs and routes."""
