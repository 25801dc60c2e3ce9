"""Computations as bytes, and the processes that run them."""
