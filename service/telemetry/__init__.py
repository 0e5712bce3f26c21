"""Where the time of each request went: in its answer, its log line and its trace."""
