"""The application under Ray Serve, whole: its batcher, admission, drain and routes stay."""
