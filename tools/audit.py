"""Check of locked packages for known vulnerabilities: `python -m tools.audit LOCK...`.

Exit status 0: none is vulnerable. 1: some are. 2: they could not be checked.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

VULNERABLE, UNCHECKED = 1, 2

# OSV includes PyPI's advisories; PyPI is the fallback where OSV cannot be reached.
_SERVICES = ("osv", "pypi")
_TIMEOUT_SECONDS = 20


def main(arguments: Sequence[str]) -> int:
    """Audit the locks, print the findings and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit")
    parser.add_argument("locks", nargs="+", help="lock files with hashes")
    parser.add_argument("--osv-url", help="query this OSV service only")
    chosen = parser.parse_args(arguments)
    failures: list[str] = []
    for service in _SERVICES if chosen.osv_url is None else _SERVICES[:1]:
        answers = _query(service, chosen.locks, chosen.osv_url)
        if answers is None:
            failures.append(f"{service} does not answer")
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
        failures.append(f"{service} does not know {_some(unknown)}")
    reason = "COULD NOT BE CHECKED for known vulnerabilities: no vulnerability service in reach"
    print(reason, *failures, sep="\n  ")
    return UNCHECKED


def _query(service: str, locks: Sequence[str], osv_url: str | None) -> list[dict[str, Any]] | None:
    """Query a vulnerability service for its records of each package; None if it is unreachable."""
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
