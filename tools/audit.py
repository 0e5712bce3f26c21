"""`python -m tools.audit LOCK...`: looks locked packages up among the known vulnerabilities.

Exit status 0: none is vulnerable. 1: some are. 2: it could not be checked.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

VULNERABLE, UNCHECKED = 1, 2

# OSV has what PyPI's advisories have and more; the other is asked where it cannot be reached.
_SERVICES = ("osv", "pypi")
_TIMEOUT_SECONDS = 20


def main(arguments: Sequence[str]) -> int:
    """Audits, prints what was found, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit")
    parser.add_argument("locks", nargs="+", help="lock files with hashes")
    parser.add_argument("--osv-url", help="ask this OSV service alone")
    chosen = parser.parse_args(arguments)
    silent: list[str] = []
    for service in _SERVICES if chosen.osv_url is None else _SERVICES[:1]:
        answers = _ask(service, chosen.locks, chosen.osv_url)
        if answers is None:
            silent.append(f"{service} does not answer")
            continue
        found = [
            f"{each['name']} {each['version']}: {vulnerability['id']}"
            f" (fixed in {', '.join(vulnerability['fix_versions']) or 'no version'})"
            for each in answers
            for vulnerability in each.get("vulns", ())
        ]
        if found:
            print("KNOWN VULNERABILITIES", *found, sep="\n  ")
            return VULNERABLE
        unknown = [each["name"] for each in answers if "skip_reason" in each]
        if not unknown:
            print(f"{len(answers)} packages, no known vulnerability ({service})")
            return 0
        silent.append(f"{service} does not know {_some(unknown)}")
    reason = "COULD NOT BE CHECKED for known vulnerabilities: no vulnerability service in reach"
    print(reason, *silent, sep="\n  ")
    return UNCHECKED


def _ask(service: str, locks: Sequence[str], osv_url: str | None) -> list[dict[str, Any]] | None:
    """What a service says of each package; None where it says nothing."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", str(_TIMEOUT_SECONDS)]
    command += ["--vulnerability-service", service]
    command += ["--osv-url", osv_url] if osv_url is not None else []
    for lock in locks:
        command += ["--requirement", lock]
    finished = subprocess.run(command, capture_output=True, text=True)
    try:
        answers: list[dict[str, Any]] = json.loads(finished.stdout)["dependencies"]
    except ValueError:
        return None
    return answers


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
