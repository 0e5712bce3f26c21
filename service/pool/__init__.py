"""The served models: which are in memory, and what their workers compute."""
