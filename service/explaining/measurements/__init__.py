"""Measurements that a request can ask for: one file each, which registers itself."""
