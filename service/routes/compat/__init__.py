"""Other servers' protocols, over the same use case."""
