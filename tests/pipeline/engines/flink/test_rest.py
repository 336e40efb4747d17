"""What is asked of Flink's REST interface."""

from __future__ import annotations

import urllib.parse

import pytest

from pipeline.engines.flink.rest import _questions


@pytest.mark.parametrize("folder", ["/lake", "/a folder/with a long name" * 6])
def test_questions_have_every_name_once_and_are_short_enough(folder: str) -> None:
    names = [f"{task}.Step{step}.sinks_lake {folder}/readings/stored"
             for task in range(16) for step in range(12)]  # fmt: skip
    parts = list(_questions(names))
    # Flink refuses an address of 4,096 characters or more.
    assert max(map(len, parts)) < 2_000
    assert [urllib.parse.unquote(each) for part in parts for each in part.split(",")] == names
    assert len(parts) < len(names)


def test_nothing_is_asked_where_there_is_nothing() -> None:
    assert list(_questions([])) == []
