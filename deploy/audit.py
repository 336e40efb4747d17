"""Looks whether a locked package has a known vulnerability; `make audit` runs it.

    python deploy/audit.py PIP_AUDIT requirements-dev.txt

PIP_AUDIT is the program pip-audit, which asks PyPI's JSON API about every package. An index that
stands in for PyPI may not serve that API; then nothing is known, which is said and is no error.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_FLAGS = ("--disable-pip", "--require-hashes", "--vulnerability-service=pypi", "--format=json",
          "--progress-spinner=off", "--timeout=30")  # fmt: skip
_ENTRY = re.compile(r"^[A-Za-z0-9][\w.\[\]-]*==.*?(?<!\\)$", re.MULTILINE | re.DOTALL)


def entries(lock: str) -> list[str]:
    """The entries of a lock file, each with its hashes, comments left out."""
    code = "\n".join(line for line in lock.splitlines() if not line.lstrip().startswith("#"))
    return [found[0].strip() for found in _ENTRY.finditer(code)]


def verdict(found: dict[str, Any]) -> tuple[list[str], int]:
    """What pip-audit's report comes to: lines for a person, and the exit status."""
    lines, skipped = [], []
    packages = found["dependencies"]
    for package in packages:
        if "skip_reason" in package:
            skipped.append(package["name"])
        for each in package.get("vulns", ()):
            fix = ", ".join(each["fix_versions"]) or "none yet"
            lines.append(f"{package['name']} {package['version']}: {each['id']}; fixed in: {fix}")
    if skipped and len(skipped) == len(packages):
        return ["skipped: no vulnerability data here; the package index serves no JSON API"], 0
    if skipped:
        lines.append(f"not known to PyPI, so not looked at: {', '.join(skipped)}")
    counted = f"{len(packages) - len(skipped)} of {len(packages)} packages looked at"
    return [*lines, counted], 1 if lines else 0


def ask(program: str, some: list[str]) -> dict[str, Any] | None:
    """pip-audit's report on some entries; None where it got none."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(some) + "\n")
        file.flush()
        argv = [program, *_FLAGS, f"--requirement={file.name}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=1800, check=False)
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        print(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer")
        return None
    return report


def main(program: str, lock: str) -> int:
    """The command; returns its exit status: 1 for a vulnerability, or a package not looked at."""
    locked = entries(Path(lock).read_text(encoding="utf-8"))
    # One first: where there is no data, there is no point in asking two hundred times.
    for some in (locked[:1], locked):
        report = ask(program, some)
        if report is None:
            print("skipped: no vulnerability data here; PyPI could not be asked")
            return 0
        lines, status = verdict(report)
        if some is locked or lines[0].startswith("skipped"):
            print("\n".join(lines))
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
