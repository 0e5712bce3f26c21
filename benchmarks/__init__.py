"""Benchmarks: the source of every speed that the project claims."""
