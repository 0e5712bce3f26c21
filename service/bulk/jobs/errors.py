"""The error of bulk jobs."""


class JobError(Exception):
    """A job cannot run as asked: its message says why, and what to do."""
