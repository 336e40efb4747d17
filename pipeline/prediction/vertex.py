"""Asks a Vertex AI endpoint for the remaining life of cells: vertex://PROJECT/REGION/ENDPOINT.

The endpoint serves a model of the same features as a file of `pipeline.train`. Instances are objects
`{"features": {NAME: NUMBER or null}}`; each prediction is `{"spans": [LOW, MEDIAN, HIGH],
"knee_risk": PROBABILITY}`, as the file's outputs are. What is out of domain is told by the model that
ships, which knows what features cells have.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import requests
from google.auth.transport.requests import AuthorizedSession

from pipeline.connect import google
from pipeline.errors import ConfigError
from pipeline.prediction.remaining_life import RemainingLife, answers
from transforms.life import features
from transforms.life.answer import Remaining
from transforms.life.features import Features

SCHEME: Final = "vertex://"
EMULATOR: Final = "VERTEX_EMULATOR_HOST"
_FORM: Final = "vertex://PROJECT/REGION/ENDPOINT"
_PARTS: Final = re.compile(
    r"([a-z0-9.:-]{1,100})/([a-z]{1,30}-[a-z]{1,30}[0-9]{1,2})/([0-9A-Za-z_-]{1,100})"
)
# Vertex takes requests of up to 1.5 MB.
_MOST_TOGETHER: Final = 500
_CONNECT_S: Final = 10.0


class Unanswered(Exception):
    """The endpoint gave no prediction; the message says why."""


class Endpoint:
    """A model behind an endpoint, asked as one in a file is.

    Args:
        uri: vertex://PROJECT/REGION/ENDPOINT.
        limit_s: how long an answer may take.
        flag: what named it, for messages.

    Raises:
        ConfigError: it can't be asked; names the flag and the fix.
    """

    def __init__(self, uri: str, limit_s: float, flag: str = "--model") -> None:
        found = _PARTS.fullmatch(uri.removeprefix(SCHEME))
        if found is None:
            raise ConfigError(f"{flag}={uri}: names no endpoint; must look like {_FORM}")
        project, region, name = found.groups()
        self._told, self._limit_s = f"{flag}={uri}", limit_s
        host = os.environ.get(EMULATOR) or f"https://{region}-aiplatform.googleapis.com"
        self._url = f"{host}/v1/projects/{project}/locations/{region}/endpoints/{name}"
        given = google.credentials(google.CLOUD_SCOPE, self._told, [EMULATOR])
        # What an emulator is shown asks for nothing and can't be renewed.
        self._session: requests.Session = (
            requests.Session() if os.environ.get(EMULATOR) else AuthorizedSession(given)  # type: ignore[no-untyped-call]
        )
        self.domain = RemainingLife().domain
        self._card = self._deployed()

    def _deployed(self) -> dict[str, Any]:
        """What the endpoint serves."""
        try:
            answer = self._session.get(self._url, timeout=(_CONNECT_S, self._limit_s))
            answer.raise_for_status()
            models = answer.json().get("deployedModels") or []
        except requests.HTTPError as error:
            raise ConfigError(
                f"{self._told}: {_refusal(error)}; check the endpoint's id, region and your permissions"
            ) from error
        except (requests.RequestException, ValueError) as error:
            silent = google.why_silent("Vertex AI", self._url, EMULATOR)
            raise ConfigError(f"{self._told}: {silent} ({type(error).__name__})") from error
        if not models:
            raise ConfigError(
                f"{self._told}: no model is deployed to it; deploy one, then run again"
            )
        newest = models[-1]
        version = newest.get("modelVersionId") or newest.get("id") or "unknown"
        return {"name": newest.get("displayName") or "vertex", "version": str(version)}

    @property
    def card(self) -> Mapping[str, Any]:
        """Name and version of the model that answered last."""
        return self._card

    @property
    def version(self) -> str:
        """Of the model that answered last."""
        return str(self._card["version"])

    def of(self, cells: Sequence[Features]) -> list[Remaining]:
        """Remaining life of cells, each by the features of its history; in their order.

        Raises:
            Unanswered: the endpoint refused, failed, or said what is no prediction.
        """
        return answers(cells, self.domain, self._ask)

    def _ask(self, values: np.ndarray) -> tuple[np.ndarray, list[float]]:
        spans: list[list[float]] = []
        risks: list[float] = []
        for start in range(0, len(values), _MOST_TOGETHER):
            for one in self._some(values[start : start + _MOST_TOGETHER]):
                low, middle, high = (float(each) for each in one["spans"])
                risk = float(one["knee_risk"])
                if not all(map(math.isfinite, (low, middle, high, risk))):
                    raise Unanswered("the endpoint gave a number that is none")
                spans.append([low, middle, high])
                risks.append(risk)
        return np.array(spans), risks

    def _some(self, values: np.ndarray) -> list[dict[str, Any]]:
        instances = [
            {
                "features": {
                    name: None if math.isnan(value) else value
                    for name, value in zip(features.NAMES, row, strict=True)
                }
            }
            for row in values.astype(np.float64).tolist()
        ]
        try:
            answer = self._session.post(
                f"{self._url}:predict",
                json={"instances": instances},
                timeout=(_CONNECT_S, self._limit_s),
            )
            answer.raise_for_status()
            said = answer.json()
            found = said["predictions"]
        except requests.HTTPError as error:
            raise Unanswered(_refusal(error)) from error
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise Unanswered(f"no answer of use ({type(error).__name__}: {error})") from error
        if not isinstance(found, list) or len(found) != len(instances):
            raise Unanswered(f"asked about {len(instances)} cells, it did not answer for each")
        version = said.get("modelVersionId") or said.get("deployedModelId")
        if version:
            self._card = {**self._card, "version": str(version)}
            self._card["name"] = said.get("modelDisplayName") or self._card["name"]
        return found


def _refusal(error: requests.HTTPError) -> str:
    """What the service said no with."""
    answer = error.response
    assert answer is not None
    try:
        reason = str(answer.json()["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        reason = answer.reason or "no reason"
    return f"Vertex AI says {answer.status_code} ({reason})"
