"""Tensors read, new files written: nothing in a file is ever executed, new files are complete or absent, names are safe on every system."""
