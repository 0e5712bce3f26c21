"""Metrics, logs, traces and stage times."""
