"""Protocols of evaluation: one file each, which registers itself."""
