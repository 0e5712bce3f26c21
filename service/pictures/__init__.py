"""Picture processes: decoding, fitting, drawing and encoding outside the event loop."""
