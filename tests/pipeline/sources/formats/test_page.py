"""The page on how files are read: its examples work, and it leaves no name out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from schemas.reading import DISAGREEMENTS
from transforms.interpret.frame import SURVEY_ROWS
from transforms.interpret.interpretation import Sign
from transforms.interpret.told import _KEYS, Told, told_from

PAGE = (Path(__file__).parents[4] / "pipeline/sources/formats/README.md").read_text("utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_used(example: str) -> None:
    assert told_from(tomllib.loads(example), "page") != Told()


def test_every_key_of_a_dialect_has_an_example() -> None:
    shown = {key for example in EXAMPLES for key in tomllib.loads(example)}
    assert shown == set(_KEYS)
    assert all(sign.value in PAGE for sign in Sign)


def test_every_disagreement_is_explained() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert set(DISAGREEMENTS) <= rows


def test_its_limit_of_rows_is_the_one_in_the_code() -> None:
    assert f"the first {SURVEY_ROWS:,} rows" in PAGE


def test_its_links_lead_somewhere() -> None:
    folder = Path(__file__).parents[4] / "pipeline/sources/formats"
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert links and all((folder / link).exists() for link in links)
