"""Measured comparisons: every speed that the project claims comes from here."""
