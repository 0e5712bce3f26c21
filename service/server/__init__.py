"""The process: listening sockets, connections, signals and shutdown."""
