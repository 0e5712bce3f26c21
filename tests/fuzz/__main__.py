"""`python -m tests.fuzz TARGET SECONDS`: fuzz one target, guided by coverage.

A failure ends the run with a traceback and a non-zero exit status; its input is in build/fuzz.
Turn that input into a small regression test of the module at fault. The corpus is kept in
build/fuzz/TARGET, and the next run continues from it.
"""

import random
import sys
from hashlib import sha256
from pathlib import Path

import atheris

_INSTRUMENTED = ["PIL", "python_multipart", "service", "legrad_engine"]
_FOLDER = Path("build/fuzz")
# Limits on one input, in libFuzzer's units.
_MOST_SECONDS = 30
_LONGEST_BYTES = 8192
_MOST_MEGABYTES = 4096
# Share of changes of any bytes, in targets that also change the structure.
_BYTES_SHARE = 0.3


def main(name: str, seconds: int) -> None:
    """Fuzz until the time is over or an input fails; does not return."""
    # Modules imported earlier would not be instrumented.
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
    structure = target.mutate

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if structure is None or chance.random() < _BYTES_SHARE:
            return bytes(atheris.Mutate(data, most))
        return structure(data, chance)[:most]

    known = {} if structure is None else {"custom_mutator": mutate}
    atheris.Setup([sys.argv[0], *options, str(learnt)], target.run, **known)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
