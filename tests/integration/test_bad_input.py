"""Bad input of every kind: the job finishes, the account balances, each reject has its reason."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.running import Ran, run
from transforms.budget import LETTER_BYTES

GOOD = {"equipment_id": "c1", "voltage_v": 3.7, "current_a": 1.0}


def message(second: int, **changes: object) -> bytes:
    stamp = f"2024-05-01T00:{second // 60:02d}:{second % 60:02d}Z"
    return json.dumps({**GOOD, "recorded_at": stamp, **changes}).encode()


# Each line, and the rule it breaks; None where it must become a reading.
LINES: list[tuple[bytes, str | None]] = [
    (message(0), None),
    (message(1)[:40], "malformed_json"),
    (b"not json at all", "malformed_json"),
    (b"[1, 2, 3]", "not_an_object"),
    (b'"text"', "not_an_object"),
    (b"\xff\xfe\x00bad", "bad_encoding"),
    (message(2).replace(b"3.7", b"NaN"), "malformed_json"),
    (message(3).replace(b"3.7", b"Infinity"), "malformed_json"),
    (message(4).replace(b"3.7", b"1e999"), "malformed_json"),
    (message(5).replace(b"3.7", b"1" + b"0" * 300), "out_of_bounds"),
    (message(6, voltage_v="inf"), "non_finite"),
    (message(7, voltage_v="three"), "wrong_type"),
    (message(8, voltage_v={"value": 3.7}), "wrong_type"),
    (message(9, voltage_v=None), "missing_field"),
    (message(10, voltage_v=True), "wrong_type"),
    (message(11, current_a=5000), "out_of_bounds"),
    (message(12, temperature_c=400), "out_of_bounds"),
    (message(13, charge_capacity_ah=-1), "negative"),
    (message(14, recorded_at="yesterday"), "unparsable_time"),
    (message(15, recorded_at="2093-01-01T00:00:00Z"), "time_ahead"),
    (message(16, cycle_index="first"), "wrong_type"),
    (message(17, note="x" * 3_000_000), None),
    (b'{"voltage_v":' + b"9" * 10_000_000, "too_large"),
    (message(18, colour="red", nested={"a": [1, {"b": None}]}), None),
    (message(19, voltage_v="3,71"), None),
    (b"[" * 50_000, "malformed_json"),
]


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("bad")
    source = folder / "in" / "lines.ndjson"
    source.parent.mkdir()
    source.write_bytes(b"\n".join(line for line, _ in LINES))
    return run(folder / "out", source)


def test_bad_messages_become_dead_letters_with_their_reason(messages: Ran) -> None:
    assert messages.status == 0
    # A letter keeps no more than a row can hold.
    refused = [(line if len(line) <= LETTER_BYTES else None, rule) for line, rule in LINES if rule]
    assert messages.account() == {
        "read": len(LINES),
        "written": len(LINES) - len(refused),
        "duplicates": 0,
        "dead_letters": len(refused),
    }
    letters = pq.read_table(messages.lake / "dead_letters").to_pylist()
    found = {letter["payload"]: letter for letter in letters}
    assert {line: found[line]["error_type"] for line, _ in refused} == dict(refused)
    for letter in letters:
        assert letter["error_message"]
        assert letter["position"]
        assert letter["source_file"] == "in/lines.ndjson"
        assert letter["step"] in ("decode", "validate")
    # The warehouse has the same letters, byte for byte.
    rows = messages.sql("SELECT payload, error_type FROM dead_letters")
    assert dict(rows) == dict(refused)


def test_unknown_fields_are_kept(messages: Ran) -> None:
    extras = [json.loads(row[0]) for row in messages.sql(
        "SELECT extra FROM readings WHERE extra LIKE '%colour%'")]  # fmt: skip
    assert extras == [{"colour": "red", "nested": {"a": [1, {"b": None}]}}]
    assert messages.sql("SELECT max(length(extra)) FROM readings")[0][0] > 3_000_000


def _archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


CSV = b"equipment_id,recorded_at,voltage_v,current_a\n"


def test_bad_files_become_dead_letters_and_the_others_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = CSV + b"c1,2024-05-01T00:00:00Z,3.7,1\nc1,2024-05-01T00:00:30Z,3.71,1\n"
    truncated = _archive({"a.csv": good * 50})
    files: dict[str, bytes] = {
        "good.csv": good,
        "empty.csv": b"",
        "empty.xlsx": b"",
        "not_a.zip": b"this is no archive",
        "cut.zip": truncated[: len(truncated) // 2],
        "not_a.xlsx": b"PK\x03\x04 but nothing behind it",
        "random.xlsx": bytes(range(256)) * 40,
        "nested.zip": _archive(
            {"deep/inner.zip": _archive({"cell/b.csv": good.replace(b"c1", b"c2")})}
        ),
        "half.ndjson.gz": gzip.compress(message(100) + b"\n" + message(101) + b"\n")[:-12],
        "bytes.csv": CSV + b"c3,2024-05-01T00:00:00Z,3.7,1\nc\xff3,2024-05-01T00:00:30Z,3.7,1\n",
        "columns.csv": CSV + b"c4,2024-05-01T00:00:00Z,3.7,1\nc4,2024-05-01T00:00:30Z,3.7\n",
        "unrelated.csv": b"name,colour\nbob,red\n",
        "broken.parquet": b"PAR1 and no more",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    ran = run(tmp_path / "out", folder)
    assert ran.status == 1
    whole = set(files) - {"good.csv", "nested.zip", "bytes.csv", "columns.csv"}
    said, *named = ran.err.splitlines()
    assert said == f"error: {len(whole)} files gave no reading; see dead_letters:"
    assert {line.strip().partition(":")[0].removeprefix("in/") for line in named} == whole
    account = ran.account()
    assert account["read"] == sum(
        account[name] for name in ("written", "duplicates", "dead_letters")
    )
    letters = ran.sql("SELECT source_file, error_type, error_message FROM dead_letters")
    accused = {name.split("/")[-1] for name, _, _ in letters if name}
    for name in ("empty.csv", "empty.xlsx", "not_a.zip", "cut.zip", "not_a.xlsx", "random.xlsx",
                 "half.ndjson.gz", "bytes.csv", "columns.csv", "unrelated.csv",
                 "broken.parquet"):  # fmt: skip
        assert name in accused, f"{name} is not among {letters}"
    assert all(message for _, _, message in letters)
    found = dict(ran.sql("SELECT equipment_id, count(*) FROM readings GROUP BY 1"))
    assert {"c1": 2, "c2": 2, "c3": 1, "c4": 1}.items() <= found.items()
    # Every file is in the archive as it came.
    archived = {
        path.name: path.read_bytes() for path in (ran.lake / "raw").rglob("*") if path.is_file()
    }
    assert archived == files


def test_a_workbook_without_data_says_which_sheets_it_has(tmp_path: Path) -> None:
    from tests.workbooks import xlsx

    folder = tmp_path / "CX_1"
    folder.mkdir()
    (folder / "CX_1_1_2_11.xlsx").write_bytes(xlsx({"Info": [["made", "by"]], "Notes": [["x"]]}))
    ran = run(tmp_path / "out", folder)
    assert ran.account() == {"read": 1, "written": 0, "duplicates": 0, "dead_letters": 1}
    rule, text = ran.sql("SELECT error_type, error_message FROM dead_letters")[0]
    assert rule == "no_data_sheet"
    assert "Info" in text
    assert "Notes" in text
