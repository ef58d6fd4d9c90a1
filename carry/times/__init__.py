"""Reads times: dates in any form, and the frequencies that they follow. Knows no files."""
