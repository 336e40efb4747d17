"""The replay of dead letters, as far as no broker is needed: flags, expressions, judgement, memory."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError
from pipeline.options import JobConfig
from pipeline.replay import main, messages
from pipeline.replaying import fields
from pipeline.replaying.corrections import corrected, judged
from pipeline.replaying.options import replay
from pipeline.replaying.sent import Sent, digest
from schemas.forms import arrow_schema
from schemas.reading import DEAD_LETTER
from tests.messages import PROFILES

TO = "--to=kafka://127.0.0.1:9/battery"
NOON = dt.datetime(2024, 6, 1, 12, tzinfo=dt.UTC)


def letters(*payloads: bytes | None, **columns: Any) -> pa.Table:
    rows = [
        {
            **dict.fromkeys(DEAD_LETTER.names),
            "dead_letter_id": f"letter {place}",
            "step": "validate",
            "error_type": "out_of_bounds",
            "error_message": "wrong",
            "source": "kafka://b/t",
            "position": f"t/0/{place}",
            "payload": payload,
            "ingested_at": NOON,
            **columns,
        }
        for place, payload in enumerate(payloads)
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(DEAD_LETTER))


def one(payload: bytes, *changes: tuple[str, str], **columns: Any) -> bytes | None:
    return corrected(letters(payload, **columns), changes)[0]


def told(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    status = main([*flags])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


# --- expressions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "field", "expression", "after"),
    [
        (b'{"voltage": 3700, "b": 1}', "voltage", "voltage / 1000", b'{"voltage":3.7,"b":1}'),
        (b'{"Voltage(V)": 3700}', "Voltage(V)", '"Voltage(V)" / 1000', b'{"Voltage(V)":3.7}'),
        (b'{"v": "3.7 furlongs"}', "v", "split_part(v, ' ', 1)::DOUBLE", b'{"v":3.7}'),
        (b'{"v": 1, "w": 2}', "w", "NULL", b'{"v":1}'),
        (b'{"v": 1}', "time", "letter.ingested_at", b'{"v":1,"time":"2024-06-01T12:00:00+00:00"}'),
        (b'{"position": 7}', "v", "position + 1", b'{"position":7,"v":8}'),
        (b'{"v": 1}', "v", "letter.position", b'{"v":"t/0/0"}'),
        (b'{"v": 1}', "ok", "error_type = 'out_of_bounds'", b'{"v":1,"ok":true}'),
        (b'{"v": 1', "payload", "letter.payload || '}'", b'{"v": 1}'),
        (b'{"n": {"a": [1, 2]}}', "v", "n->'a'->>1", b'{"n":{"a":[1,2]},"v":"2"}'),
        (b'{"a\xc3\xa9": 1}', "aé", "\"aé\" + 1", b'{"a\xc3\xa9":2}'),
    ],
)  # fmt: skip
def test_a_field_gets_an_expressions_value(
    payload: bytes, field: str, expression: str, after: bytes
) -> None:
    assert one(payload, (field, expression)) == after


@pytest.mark.parametrize(
    ("payload", "field", "expression"),
    [
        (b'{"v":  3.70}', "v", "3.7"),  # to the byte as it was
        (b'{"v": 1}', "w", "NULL"),
        (b"no JSON", "v", "1"),
        (b"[1]", "v", "1"),
        (b"", "v", "1"),
        (b"\xff", "payload", "letter.payload || '}'"),  # no text
        (b'{"v": 1}', "payload", "letter.payload"),
    ],
)
def test_what_an_expression_does_not_change_is_left_alone(
    payload: bytes, field: str, expression: str
) -> None:
    assert one(payload, (field, expression)) is None


def test_changes_apply_one_after_the_other() -> None:
    changes = [("payload", "rtrim(letter.payload) || '}'"), ("v", "v * 2"), ("w", "v + 1")]
    assert one(b'{"v": 1 ', *changes) == b'{"v":2,"w":3}'
    # And back again is no change.
    assert one(b'{"v": 1}', ("v", "2"), ("payload", "'{\"v\": 1}'")) is None


def test_a_field_of_which_some_are_text_is_text_for_all() -> None:
    mixed = letters(b'{"v": 3700}', b'{"v": "3700 mV"}', b'{"w": 1}')
    changes = [("v", "regexp_extract(v, '[0-9]+')::DOUBLE / 1000")]
    assert corrected(mixed, changes) == [b'{"v":3.7}', b'{"v":3.7}', None]


@pytest.mark.parametrize("expression", ["volt / 1000", "voltage /", "1; DROP TABLE x", "'a'::INT"])
def test_an_expression_that_can_not_be_is_told_in_one_line(expression: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--set=v={expression}: ")) as raised:
        one(b'{"voltage": 1}', ("v", expression))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_a_name_that_no_column_can_have_breaks_nothing(name: str) -> None:
    payload = json.dumps({name: 1, "v": 2}).encode()
    changed, other = corrected(letters(payload, b'{"v":4}'), [("v", "v / 2")])
    assert json.loads(changed or b"")["v"] == 1.0
    assert other == b'{"v":2.0}'


def test_only_names_that_are_asked_for_cost_a_column() -> None:
    payloads = [json.dumps({f"key{place}": place, 'V"x': 2}).encode() for place in range(2000)]
    with fields.database() as database:
        with fields.shown(database, letters(*payloads), '"v""x" + message.KEY1999') as names:
            assert {'V"x', "key1999"} < set(names)
            assert len(names) < 300
        with fields.shown(database, letters(*payloads[:3]), "message::VARCHAR") as names:
            assert names == ["key0", 'V"x', "key1", "key2"]
    found = corrected(letters(*payloads), [("v", '"v""x" + message.KEY1999')])
    assert found[:-1] == [None] * 1999
    assert json.loads(found[-1] or b"")["v"] == 2001


def test_expressions_reach_no_file(tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_text("a\n1\n")
    with pytest.raises(ConfigError, match="disabled"):
        one(b'{"v": 1}', ("v", f"(SELECT a FROM read_csv('{file}'))"))


# --- judgement -------------------------------------------------------------------------------


def test_only_what_the_job_would_read_is_kept() -> None:
    now = {"equipment_id": "c1", "time": "2024-06-01T12:00:00Z", "current": 1.0}
    found = letters(*(json.dumps({**now, "voltage": volts}).encode() for volts in (3700, 9e9, 3)))
    payloads = corrected(
        found, [("voltage", "CASE WHEN voltage > 100 THEN voltage / 1000 ELSE 3 END")]
    )
    seen = judged(found, payloads, JobConfig(profiles=PROFILES))
    assert (seen.unchanged, dict(seen.wrong)) == (1, {("out_of_bounds", "voltage_v"): 1})
    assert seen.letters.column("position").to_pylist() == ["t/0/0"]
    assert [json.loads(payload)["voltage"] for payload in seen.payloads] == [3.7]
    assert seen.example["out_of_bounds", "voltage_v"].startswith("t/0/1: ")


def test_rows_of_other_tables_are_no_messages() -> None:
    now = {"equipment_id": "c1", "time": "2024-06-01T12:00:00Z", "current": 1.0, "voltage": 9}
    parts = [
        letters(json.dumps(now).encode(), error_type=kind, attributes=attributes)
        for kind, attributes in (
            ("refused", '{"table":"readings_superseded","version_id":"r:1"}'),
            ("refused", '{"table":"readings","reading_id":"r"}'),
            # A message's own header.
            ("out_of_bounds", '{"table":"bench 7"}'),
        )
    ]
    found = pa.concat_tables(parts)
    seen = judged(found, corrected(found, [("voltage", "3.7")]), JobConfig(profiles=PROFILES))
    assert (seen.not_messages, seen.unchanged, dict(seen.wrong)) == (1, 0, {})
    assert (
        seen.letters.column("attributes").to_pylist() == found.column("attributes").to_pylist()[1:]
    )


def test_a_message_is_read_as_the_job_s_flags_say() -> None:
    local = {"time": "2025-03-30 02:30:00", "current": 1.0, "voltage": 9}
    found = letters(json.dumps(local).encode(), message_key=b"\xff\xfe")
    common = ["--lake=x", "--set=voltage=3.7", TO, "--time_zone=Europe/Berlin"]
    for flags, wrong in (
        ([], 0), (["--zone_gap=reject"], 1), (["--binary_keys=refuse"], 1),
    ):  # fmt: skip
        what = replay([*common, *flags])
        assert judged(found, corrected(found, what.changes), what.job).wrong.total() == wrong, flags


def test_a_message_names_its_letter_and_keeps_its_own() -> None:
    found = letters(b"{}", message_key=b"k", attributes='{"site": "north"}', equipment_id="c1")
    (sent,) = messages(found, [b"{}"], "2026-01-01T00:00:00+00:00", "me@here").to_pylist()
    assert sent["key"] == b"k"
    assert json.loads(sent["attributes"]) == {
        "site": "north", "dead_letter_id": "letter 0", "replayed_at": "2026-01-01T00:00:00+00:00",
        "replayed_by": "me@here",
    }  # fmt: skip
    (unkeyed,) = messages(letters(b"{}", equipment_id="c1"), [b"{}"], "", "").to_pylist()
    assert unkeyed["key"] == b"c1"


# --- memory ----------------------------------------------------------------------------------


def test_what_was_sent_is_remembered_by_topic_letter_and_payload(tmp_path: Path) -> None:
    known = {digest("kafka://b/t?x=1", "a", b"1"), digest("kafka://b/t", "a", b"2")}
    Sent(str(tmp_path)).add(known, "2026-01-01T00:00:00+00:00", "me")
    Sent(str(tmp_path)).add([digest("kafka://b/t", "b", b"1")], "2026-01-01T00:00:00+00:00", "me")
    found = Sent(str(tmp_path)).load()
    assert len(found) == 3
    assert digest("kafka://b/t", "a", b"1") in found
    assert digest("kafka://b/u", "a", b"1") not in found
    next(tmp_path.rglob("*.json")).write_text("[")
    with pytest.raises(ConfigError, match="no list of what was sent; restore it"):
        Sent(str(tmp_path)).load()


# --- flags -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "fix"),
    [
        (["--set=v=1", TO], "--lake or --warehouse: give one"),
        (["--lake=x", "--warehouse=duckdb:y", "--set=v=1", TO], "--lake or --warehouse: give one"),
        (["--lake=x", TO], "--set: give what to correct"),
        (["--lake=x", "--set=v", TO], "--set=v: must be FIELD=EXPRESSION"),
        (["--lake=x", "--set==1", TO], "--set==1: must be FIELD=EXPRESSION"),
        (["--lake=x", "--set=v=1"], "--to"),
        (["--lake=x", "--set=v=1", TO, "--sent"], "--sent: no such flag"),
        (["--warehouse=md:x", "--set=v=1", TO], "give --remember=FOLDER"),
        (["--lake=s3://me:word@b/x", "--set=v=1", TO], "must not stand in the address"),
        (["--lake=x", "--set=v=1", "--to=http://x/y"], "--to=http://x/y: no such topic"),
        (["--lake=x", "--set=v=1", "--time_zone=Mars", TO], "--time_zone=Mars"),
        (["--lake=x", "--set=v=1", "--zone_gap=up", TO], "--zone_gap"),
        (["--warehouse=duckdb:none.duckdb", "--set=v=1", TO], "there is no such file"),
    ],
)
def test_a_flag_that_can_not_be_is_told_with_the_fix(
    flags: list[str], fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = told(capsys, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert fix in err
    assert "word" not in err.replace("password", "")


def test_where_it_remembers() -> None:
    common = ("--set=a=b = c", TO)
    assert replay(["--lake=data/lake/", *common]).remember == "data/lake/.replays"
    assert replay(["--warehouse=duckdb:data/w.duckdb", *common]).remember == "data/.replays"
    assert replay(["--lake=x", "--remember=gs://b/r", *common]).remember == "gs://b/r"
    assert replay(["--lake=x", *common]).changes == (("a", "b = c"),)


def test_a_lake_without_letters_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = told(capsys, f"--lake={tmp_path}", "--set=v=1", TO)
    assert status == 2
    assert "there is neither dead_letters/ nor readings/ in it" in err
    (tmp_path / "readings" / "dt=2024-06-01").mkdir(parents=True)
    (tmp_path / "readings" / "dt=2024-06-01" / "a.parquet").write_bytes(b"")
    status, out, _ = told(capsys, f"--lake={tmp_path}", "--set=v=1", TO)
    assert status == 0
    assert "no dead letter meets --where=true; there are none; nothing was sent" in out
