"""Measures of heatmaps: pure functions of arrays, each with its conventions. Needs no torch."""
