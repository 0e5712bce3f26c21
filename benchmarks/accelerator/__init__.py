"""Measurements on a GPU: `make accelerator`."""
