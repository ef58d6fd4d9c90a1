"""Classifiers: the third kind of model."""
