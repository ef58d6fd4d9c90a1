"""Recurrent states that are kept between calls."""
