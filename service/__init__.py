"""The engine as a service: HTTP in front, a micro-batching worker behind."""
