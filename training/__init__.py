"""Carry's offline package: trains recurrent networks with PyTorch and writes them as model folders."""
