"""Sessions: the states of sequences, stored between calls."""
