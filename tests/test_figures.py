"""The descriptions of the models and the page 'What the figures mean' name what is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import models
from tests.figures import PICTURES

PARTS = ("Definition", "Method", "Source", "Assumes", "Null")
PAGE = models.PROJECT / "figures" / "README.md"
MODELS = sorted((models.PROJECT / "models").rglob("*.sql"))


def entry(model: Path) -> dict[str, Any]:
    """A model's entry in its yml."""
    described: dict[str, Any] = yaml.safe_load(model.with_suffix(".yml").read_text("utf-8"))
    (found,) = described["models"]
    assert found["name"] == model.stem
    return dict(found)


def description(model: Path) -> str:
    """What a model's yml says of it."""
    return str(entry(model)["description"])


def sql() -> str:
    """All that dbt compiles."""
    folders = ("models", "macros", "tests", "analyses")
    files = [file for name in folders for file in (models.PROJECT / name).rglob("*.sql")]
    return "\n".join(file.read_text("utf-8") for file in files)


def variables() -> set[str]:
    """The constants of dbt_project.yml."""
    return set(yaml.safe_load((models.PROJECT / "dbt_project.yml").read_text("utf-8"))["vars"])


def identifiers(text: str) -> set[str]:
    """Names of tables, columns and constants: words in backquotes that hold an underscore."""
    return set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", text))


def known() -> set[str]:
    """What such a name may be: a word of the SQL, a constant, a model or a column."""
    named = {column["name"] for model in MODELS for column in entry(model).get("columns", [])}
    return set(re.findall(r"\w+", sql())) | variables() | {model.stem for model in MODELS} | named


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.stem)
def test_a_model_says_what_it_is_and_when_it_is_null(model: Path) -> None:
    text = description(model)
    assert text.startswith("Definition: ")
    assert "Null: " in text
    at = [text.index(f"{part}: ") for part in PARTS if f"{part}: " in text]
    assert at == sorted(at)


def test_every_constant_is_used_and_every_used_one_is_there() -> None:
    assert set(re.findall(r"var\(\s*'(\w+)'", sql())) == variables()


def test_what_descriptions_name_in_backquotes_is_there() -> None:
    names = known()
    for model in MODELS:
        assert identifiers(description(model)) <= names, model.stem


def test_what_the_page_names_is_there() -> None:
    page = PAGE.read_text("utf-8")
    assert identifiers(page) <= known() | {"dbt_project"}
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (PAGE.parent / link).exists(), link
    for heading in re.findall(r"\]\(#([^)]+)\)", page):
        headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_picture_is_in_the_page_and_small() -> None:
    page = PAGE.read_text("utf-8")
    named = set(re.findall(r"!\[[^\]]+\]\((\w+)\.png\)", page))
    assert named == set(PICTURES) == {file.stem for file in PAGE.parent.glob("*.png")}
    assert all(file.stat().st_size < 60_000 for file in PAGE.parent.glob("*.png"))
    readme = (models.PROJECT.parent / "README.md").read_text("utf-8")
    assert "(dbt_project/figures/README.md)" in readme
