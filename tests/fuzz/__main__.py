"""`python -m tests.fuzz TARGET SECONDS`: fuzz one target, guided by coverage.

A find ends the run with a traceback and another exit status than 0; its bytes are in build/fuzz.
Turn it into a test of a few bytes in the mirror of the module that it is about. What was learnt is
kept in build/fuzz/TARGET and taken up by the next run.
"""

import sys
from hashlib import sha256
from pathlib import Path

import atheris

_INSTRUMENTED = ["PIL", "python_multipart", "service", "legrad_engine"]
_FOLDER = Path("build/fuzz")
# Of one input; libFuzzer's units.
_MOST_SECONDS = 30
_LONGEST_BYTES = 8192
_MOST_MEGABYTES = 4096


def main(name: str, seconds: int) -> None:
    """Fuzzes until the time is over or something is found; does not return."""
    # Nothing is instrumented that was imported before.
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    learnt = _FOLDER / name
    learnt.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (learnt / sha256(seed).hexdigest()).write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={_MOST_SECONDS}",
        f"-rss_limit_mb={_MOST_MEGABYTES}",
        f"-max_len={_LONGEST_BYTES}",
        f"-artifact_prefix={_FOLDER}/{name}-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(learnt)], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
