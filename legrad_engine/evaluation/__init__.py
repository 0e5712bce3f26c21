"""Evaluation of explanation methods on published data sets, by published protocols."""
