"""The program ``legrad``: what has to be said to native libraries before they are loaded."""

import os

# GNU's OpenMP, which torch computes with on Linux, reads this once. Between two operations its
# threads wait in a loop; by default for milliseconds, in which pictures could be decoded. So many
# turns bridge the gaps within a forward pass, and no more.
_OPENMP_TURNS = "8000"


def main() -> None:
    """Runs the command line."""
    os.environ.setdefault("GOMP_SPINCOUNT", _OPENMP_TURNS)
    from service.cli import app

    app()
