"""A row that breaks the decoding is a dead letter of its own; the others of its batch are decoded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.messages import messages, reading
from transforms import decode as decoding
from transforms.decode import decode
from transforms.decoded import Decoded
from transforms.guard import UNDECODABLE
from transforms.rejects import Rejects, dead_letters


def test_a_row_that_breaks_the_decoding_is_found_and_the_others_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = decoding._decode
    bad = {3, 40, 41, 99}

    def broken(raw: Any, *how: Any) -> tuple[Decoded, Rejects]:
        if any(f'"record_index": {row},'.encode() in text
               for text in raw.table["payload"].to_pylist() for row in bad):  # fmt: skip
            raise ValueError("a \ud800 that nobody had thought of")
        return whole(raw, *how)

    monkeypatch.setattr(decoding, "_decode", broken)
    raw = messages([reading(record_index=at) for at in range(100)] + [b"{"])
    decoded, rejects = decode(raw)
    assert decoded.raw is raw
    assert sorted(rejects.rows) == [*sorted(bad), 100]
    assert sorted([*decoded.table["row"].to_pylist(), *bad]) == list(range(100))
    letters = dead_letters(raw, rejects, "decode").to_pylist()
    assert letters[0]["error_type"] == UNDECODABLE and letters[0]["position"] == "topic/0/3"
    assert "ValueError: a ? that nobody" in letters[0]["error_message"]


def test_the_machines_own_errors_are_no_messages_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(decoding, "_decode", full)
    with pytest.raises(MemoryError):
        decode(messages([reading()] * 2))
