"""The served models: loading, memory budget, workers, traces and readiness."""
