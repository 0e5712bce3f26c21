"""Data sets in their published form: one file each, which registers itself."""
