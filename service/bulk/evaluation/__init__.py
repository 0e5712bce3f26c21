"""Evaluation of methods on a data set: a journal of samples, figures as JSON and Markdown."""
