"""Every locked package is pinned and hashed, and what an audit found is not taken for nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy import audit

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.txt"))


def test_there_are_two_locks() -> None:
    assert [path.name for path in LOCKS] == ["requirements-dev.txt", "requirements.txt"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_entry_is_pinned_and_hashed(path: Path) -> None:
    text = path.read_text()
    found = audit.entries(text)
    # Everything that is no comment belongs to an entry: no index, no editable, no address.
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert sum(len(entry.splitlines()) for entry in found) == len(lines)
    for entry in found:
        head, *hashes = (part.strip() for part in entry.replace("\\\n", "\n").splitlines())
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[\w.!+]+( ; .+)?", head), head
        assert hashes and all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in hashes), (
            head
        )
    names = [entry.partition("==")[0] for entry in found]
    assert len(names) == len(set(names)) > 100


def package(name: str, *vulnerabilities: str) -> dict[str, Any]:
    vulns = [{"id": each, "fix_versions": ["2.0"]} for each in vulnerabilities]
    return {"name": name, "version": "1.0", "vulns": vulns}


SKIPPED = {"name": "six", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("packages", "says", "status"),
    [
        ([package("a"), package("b")], ["2 of 2 packages looked at"], 0),
        ([package("a", "CVE-1")], ["a 1.0: CVE-1; fixed in: 2.0", "1 of 1 packages looked at"], 1),
        ([package("a"), SKIPPED], ["not known to PyPI, so not looked at: six",
                                   "1 of 2 packages looked at"], 1),
        ([SKIPPED], ["skipped: no vulnerability data here; the package index serves no JSON API"], 0),
    ],
)  # fmt: skip
def test_what_an_audit_comes_to(
    packages: list[dict[str, Any]], says: list[str], status: int
) -> None:
    assert audit.verdict({"dependencies": packages, "fixes": []}) == (says, status)


def test_where_nothing_can_be_asked_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "pip-audit"
    program.write_text("#!/bin/sh\necho 'could not connect' >&2\nexit 1\n")
    program.chmod(0o755)
    assert audit.main(str(program), str(LOCKS[1])) == 0
    assert capsys.readouterr().out.splitlines() == [
        "could not connect",
        "skipped: no vulnerability data here; PyPI could not be asked",
    ]


def test_variables_are_kept_out_of_the_repository_and_their_example_is_not() -> None:
    folder = "deploy/terraform"
    names = {
        "terraform.tfvars": True,
        "lab.auto.tfvars": True,
        "terraform.tfvars.json": True,
        "terraform.tfvars.example": False,
        ".terraform.lock.hcl": False,
    }
    for name, ignored in names.items():
        argv = ["git", "check-ignore", "--quiet", "--no-index", f"{folder}/{name}"]
        done = subprocess.run(argv, cwd=ROOT, check=False)
        assert (done.returncode == 0) is ignored, name
