"""What a run says beside its account: files that gave nothing, tests in doubt, statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline import outcome
from pipeline.__main__ import main
from pipeline.outcome import NoteDialects, Outcome
from schemas.forms import arrow_schema
from schemas.reading import TEST_DIALECT
from tests.running import run
from transforms import decode as decoding
from transforms.interpret.interpretation import Interpretation

HEAD = "equipment_id,recorded_at,voltage_v,current_a\n"


def good(name: str, day: int = 1) -> str:
    return HEAD + "".join(f"{name},2024-05-{day:02}T00:0{n}:00Z,3.7,1\n" for n in range(3))


def write(folder: Path, **texts: str | bytes) -> Path:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


BAD_ROWS = HEAD + "c,2024-05-01T00:00:00Z,oops,1\n" * 2 + "c,2024-05-01T00:00:00Z,,1\n"


# --- files that gave nothing ---------------------------------------------------------------------


def test_a_file_that_gave_nothing_ends_the_run_with_1_and_is_named(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "in", good__csv=good("a"), rows__csv=BAD_ROWS, broken__parquet=b"PAR1 no more",
        half__csv=good("b", 2) + "b,never,3.7,1\n",
    )  # fmt: skip
    ran = run(tmp_path, folder)
    assert ran.status == 1
    assert ran.account() == {"read": 11, "written": 6, "duplicates": 0, "dead_letters": 5}
    said, *named = ran.err.splitlines()
    assert said == "error: 2 files gave no reading; see dead_letters:"
    assert named[0].startswith("  in/broken.parquet: the Parquet file cannot be read")
    assert named[1] == "  in/rows.csv: voltage_v must be a number (2 times)"


def test_a_file_whose_rows_are_all_known_did_give_something(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a__csv=good("a"), b__csv=good("a"))
    ran = run(tmp_path, folder)
    assert (ran.status, ran.err) == (0, "")
    assert ran.account()["duplicates"] == 3


def test_companions_and_files_without_rows_do_not_count(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", a__csv=good("a"), readme__txt="no data", empty__csv=HEAD)
    assert run(tmp_path, folder).status == 0


def test_ten_files_are_named_and_the_others_counted(tmp_path: Path) -> None:
    bad = {f"bad_{n:02}__json": "{" for n in range(13)}
    ran = run(tmp_path, write(tmp_path / "in", a__csv=good("a"), **bad))
    assert ran.status == 1
    said, *named, rest = ran.err.splitlines()
    assert "13 files" in said and len(named) == 10 and rest == "  … and 3 more"


@pytest.mark.parametrize(
    "flags", [(), ("--direct_num_workers=2", "--direct_running_mode=multi_threading")]
)
def test_parts_of_a_file_and_files_of_messages_are_weighed_as_wholes(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    message = (
        '{"equipment_id":"m","recorded_at":"2024-05-01T00:00:00Z","voltage_v":3.7,"current_a":1}'
    )
    folder = write(
        tmp_path / "in", mixed__ndjson=f"{message}\nno json\n", bad__ndjson="no json\nnor this\n"
    )
    ran = run(tmp_path, folder, *flags)
    assert ran.status == 1
    assert [line.partition(":")[0] for line in ran.err.splitlines()[1:]] == ["  in/bad.ndjson"]


def test_what_is_still_wrong_at_a_replay_is_no_file_of_that_run(tmp_path: Path) -> None:
    first = run(tmp_path / "first", write(tmp_path / "in", rows__csv=BAD_ROWS, b__parquet=b"PAR1"))
    assert first.status == 1
    again = run(tmp_path / "again", first.lake / "dead_letters")
    assert again.account()["dead_letters"] == 4
    assert (again.status, again.err) == (0, "")


def test_it_does_without_a_lake_and_without_a_warehouse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "in", a__csv=good("a"), rows__csv=BAD_ROWS)
    ran = run(tmp_path / "no_lake", folder, "--lake=none")
    assert ran.status == 1 and "in/rows.csv" in ran.err
    flags = [f"--lake={tmp_path / 'lake'}", "--warehouse=none", "--no_progress"]
    assert main(["--runner=DirectRunner", f"--source={folder}", *flags]) == 1
    assert "in/rows.csv" in capsys.readouterr().err


# --- tests in doubt --------------------------------------------------------------------------------


def test_disagreements_are_counted_by_test_and_some_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubts = {"a": ("identity_guessed",), "b": ("identity_guessed", "clock_disagrees"), "c": ()}
    plain = decoding.decode

    def told(raw: Any, *given: Any) -> Any:
        decoded, rejects = plain(raw, *given)
        name = raw.table["equipment_id"][0].as_py()
        dialect = Interpretation(disagreements=doubts[name])
        object.__setattr__(decoded, "dialect", dialect)
        return decoded, rejects

    monkeypatch.setattr(decoding, "decode", told)
    folder = write(tmp_path / "in", **{f"{name}__csv": good(name) for name in doubts})
    ran = run(tmp_path, folder)
    assert ran.status == 0
    (line,) = [line for line in ran.out.splitlines() if line.startswith("in doubt: ")]
    tests = dict(ran.sql("SELECT equipment_id, test_id FROM test_dialects"))
    assert line == (
        f"in doubt: 1 test with clock_disagrees ({tests['b']}), 2 with identity_guessed "
        f"({tests['a']}, {tests['b']}); see test_dialects"
    )
    assert ran.sql("SELECT equipment_id, disagreements FROM test_dialects ORDER BY 1") == [
        ("a", ["identity_guessed"]), ("b", ["clock_disagrees", "identity_guessed"]), ("c", [])
    ]  # fmt: skip
    # A replay adds no row, in neither place.
    before = ran.files()
    again = run(tmp_path, folder)
    assert again.sql("SELECT count(*) FROM test_dialects") == [(3,)]
    assert again.files() == before
    assert any(name.startswith("test_dialects/dt=") for name in before)


def test_a_test_that_comes_twice_is_one() -> None:
    row = {field.name: None for field in TEST_DIALECT.fields}
    row |= {"dialect_id": "x", "equipment_id": "c", "test_id": "t", "columns_used": "{}",
            "current_sign": "s", "clock": "c", "event_time": "e", "ingested_at": 0}  # fmt: skip
    rows = pa.Table.from_pylist(
        [row | {"disagreements": ["unit_guessed"]}], schema=arrow_schema(TEST_DIALECT)
    )
    pipeline = beam.Pipeline(FnApiRunner())
    _ = pipeline | beam.Create([rows, rows], reshuffle=False) | beam.ParDo(NoteDialects())
    result = pipeline.run()
    result.wait_until_finish()
    assert outcome.of(result).doubts == {"unit_guessed": (1, ("t",))}


def test_without_anything_to_say_nothing_is_said() -> None:
    assert Outcome().lines() == Outcome().complaints() == []


def test_runners_that_keep_no_names_give_the_numbers() -> None:
    known = Outcome(nothing=2, doubts={"unit_guessed": (3, ())}, witnesses=2, without_readings=1)
    assert known.complaints() == ["error: 2 files gave no reading; see dead_letters:"]
    assert known.lines()[0].startswith("cycler's own statistics: 2 files or sheets used")
    assert "1 file or sheet without readings" in known.lines()[1]
    assert known.lines()[2] == "in doubt: 3 tests with unit_guessed; see test_dialects"
    many = Outcome(doubts={"unit_guessed": (5, ("a", "b", "c"))})
    assert "5 tests with unit_guessed (a, b, c, …)" in many.lines()[0]
