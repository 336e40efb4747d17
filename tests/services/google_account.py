"""Lets Google's clients work without Google: an account that no emulator checks."""

from __future__ import annotations

import json
from pathlib import Path

PROJECT = "test-project"

# Without credentials every client looks for a metadata server for 20 s; with these, none is asked.
_CREDENTIALS = {
    "type": "authorized_user",
    "client_id": "fake",
    "client_secret": "fake",
    "refresh_token": "fake",
    "token": "fake",
    "expiry": "2999-01-01T00:00:00Z",
    "quota_project_id": PROJECT,
}


def write_credentials(folder: Path) -> None:
    """Lays the credentials into the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    _file(folder).write_text(json.dumps(_CREDENTIALS))


def environment(folder: Path) -> dict[str, str]:
    """The variables that lead every client to the folder's credentials and to the project."""
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(_file(folder)), "GOOGLE_CLOUD_PROJECT": PROJECT}


def _file(folder: Path) -> Path:
    return folder / "credentials.json"
