"""Files: tensors read without executing anything, new files complete or absent, names that are safe on every system."""
