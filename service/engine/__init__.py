"""The engine: runs a graph's steps for many requests at once. Knows tensors only: nothing of text, series or HTTP."""
