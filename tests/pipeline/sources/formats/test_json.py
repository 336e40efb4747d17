"""Tests the reading of JSON files, in lines and in documents."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pytest

from pipeline.sources.formats.messages import equipment_of
from tests.pipeline.sources.reading import read, read_file
from transforms.batch import MESSAGES, BatchKind


def message(number: int) -> bytes:
    return orjson.dumps({"n": number, "voltage": 3.7, "current": 0.5, "text": "°" * (number % 7)})


def test_every_line_is_a_message_as_it_came(tmp_path: Path) -> None:
    data = b'{"a": 1 }\n\n{"b":2}\r\nnot json\n  \n{"c":3}'
    found = read_file(tmp_path, "B0005/log.ndjson", data)
    (batch,) = found.batches
    assert batch.kind is BatchKind.MESSAGES and batch.table.schema == MESSAGES
    assert found.column("payload") == [b'{"a": 1 }', b'{"b":2}', b"not json", b'{"c":3}']
    assert found.column("position") == ["line 1", "line 3", "line 4", "line 6"]
    assert set(found.column("source_file")) == {"B0005/log.ndjson"}
    assert set(found.column("attributes")) == {'{"equipment_id":"B0005"}'}
    assert batch.origin.equipment_id == "B0005" and found.column("key") == [None] * 4
    modified = (tmp_path / "B0005" / "log.ndjson").stat().st_mtime
    assert found.column("arrived_at")[0].timestamp() == pytest.approx(modified, abs=1e-5)


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonl", "a.json", "a.txt", "a"])
def test_lines_are_told_by_their_content(tmp_path: Path, name: str) -> None:
    found = read_file(tmp_path, name, b"".join(message(n) + b"\n" for n in range(100)))
    assert found.column("payload") == [message(n) for n in range(100)]


def test_gzip_bom_and_utf16(tmp_path: Path) -> None:
    text = "".join(f'{{"n":{n},"u":"°"}}\n' for n in range(50))
    expected = text.encode().splitlines()
    for name, data in {
        "a.jsonl.gz": gzip.compress(text.encode()),
        "b.jsonl": text.encode("utf-8-sig"),
        "c.jsonl": text.encode("utf-16"),
    }.items():
        assert read_file(tmp_path / name, name, data).column("payload") == expected


def test_a_cut_gzip_keeps_what_was_read(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(message(n) + b"\n" for n in range(30_000)), 1)
    found = read_file(tmp_path, "a.ndjson.gz", packed[: len(packed) // 2])
    assert found.errors == ["truncated_file"]
    count = len(found.rows)
    assert count > 5_000 and found.column("payload") == [message(n) for n in range(count)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}', [b'{"a": 1}']),
        (b'\xef\xbb\xbf {\n "a": 1,\n "b": [1]\n}\n', [b'{\n "a": 1,\n "b": [1]\n}']),
        (b'[{"a": 1} , {"b":2}]', [b'{"a": 1}', b'{"b":2}']),
        (b"[]", []),
        (b'{"a": 1', [b'{"a": 1']),
        (b'{"a": 1\n{"b": 2}\n', [b'{"a": 1', b'{"b": 2}']),
    ],
)
def test_documents(tmp_path: Path, data: bytes, expected: list[bytes]) -> None:
    found = read_file(tmp_path, "a.json", data)
    assert found.errors == [] and found.column("payload") == expected


@pytest.mark.parametrize(
    ("data", "error"),
    [(b'[{"a":1},{"b"', "malformed_json"), (b"", "empty_file"), (b" \n ", "empty_file")],
)
def test_broken_documents(tmp_path: Path, data: bytes, error: str) -> None:
    found = read_file(tmp_path, "a.json", data)
    assert found.errors == [error] and found.letters[0]["payload"] == data


def test_many_tiny_files_make_few_batches(tmp_path: Path) -> None:
    for n in range(1500):
        folder = tmp_path / f"B{n % 3}"
        folder.mkdir(exist_ok=True)
        (folder / f"stream_{1717243200000 + n}.json").write_bytes(message(n))
    (tmp_path / "B0" / "stream_1.json").write_bytes(b"")
    found = read(tmp_path)
    assert len(found.batches) <= 3
    assert sorted(found.column("payload")) == sorted(message(n) for n in range(1500))
    assert set(found.column("attributes")) == {f'{{"equipment_id":"B{n}"}}' for n in range(3)}
    assert "B1/stream_1717243200001.json" in found.column("source_file")
    assert found.errors == ["empty_file"]


def test_byte_ranges_give_the_same_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"\n".join([message(n) for n in range(60)] + [b"", b"x"]))
    data, whole = path.read_bytes(), read(path).column("payload")
    assert len(whole) == 61
    for size in range(1, len(data) + 1, 11):
        found = read(path, split_bytes=size)
        assert sorted(found.column("payload")) == sorted(whole)
        for row in found.rows:
            kind, _, number = row["position"].partition(" ")
            if kind == "byte":
                assert data[int(number) :].startswith(row["payload"])


def test_batches_are_bounded(tmp_path: Path) -> None:
    found = read_file(tmp_path, "a.ndjson", b'{"a":1}\n' * 2500, batch_rows=1000)
    assert [batch.table.num_rows for batch in found.batches] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("path", "equipment"),
    [
        ("landing/B0005/stream_1717243200000.json", "B0005"),
        ("s3://bucket/B0005/dt=2024-01-01/part-00000-of-00005.json", "B0005"),
        ("B0005/data.json", "B0005"),
        ("x/B0006_20240101.json", "B0006"),
        ("battery/readings.ndjson", None),
        ("stream_1.json", None),
    ],
)
def test_equipment_of_a_message_file(path: str, equipment: str | None) -> None:
    assert equipment_of(path) == equipment


def test_a_configured_equipment_wins(tmp_path: Path) -> None:
    found = read_file(tmp_path, "B1/a.json", message(1), equipment_id="Z")
    assert found.column("attributes") == ['{"equipment_id":"Z"}']
