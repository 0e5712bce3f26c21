"""Worker threads that decode and draw pictures outside the event loop."""
