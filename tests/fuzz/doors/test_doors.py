"""No changed input breaks a way in: the fuzzer's short form, and properties of single doors."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.doors import worker
from tests.fuzz.doors.__main__ import HEAD, kept, main, row
from tests.fuzz.doors.door import Door, Taken
from tests.fuzz.doors.doors import DOORS
from tests.fuzz.doors.worker import fuzz, input_of
from tests.properties import use_profile

use_profile()

SEED = 11
FEW, MANY = 10, 400


@pytest.mark.parametrize("name", DOORS)
def test_a_few_inputs(name: str, tmp_path: Path) -> None:
    found = fuzz(DOORS[name], SEED, 0, FEW)
    assert not found.broken, "\n".join(kept(found, SEED, tmp_path))
    assert found.inputs == FEW


@pytest.mark.long
@pytest.mark.parametrize("name", DOORS)
def test_many_inputs(name: str, tmp_path: Path) -> None:
    found = fuzz(DOORS[name], SEED, FEW, MANY)
    print(HEAD, row(name, found), sep="\n")
    assert not found.broken, "\n".join(kept(found, SEED, tmp_path))
    assert found.inputs == MANY
    assert found.nothing < MANY / 10


@pytest.mark.parametrize("name", DOORS)
def test_good_inputs_are_read(name: str) -> None:
    door = DOORS[name]
    if name in ("nda", "ndax"):
        pytest.skip("its good inputs lie outside the repository")
    assert any(door.run(data).readings for data in door.seeds())


@pytest.mark.parametrize("name", DOORS)
def test_seeds_are_the_same_every_time(name: str) -> None:
    assert DOORS[name].inputs() == DOORS[name].inputs()


def test_inputs_are_the_same_for_a_seed() -> None:
    door = DOORS["delimited"]
    seeds = door.inputs()
    made = [input_of(door, seeds, SEED, index) for index in range(len(seeds) + 40)]
    assert made == [input_of(door, seeds, SEED, index) for index in range(len(seeds) + 40)]
    assert made[: len(seeds)] == seeds and len(set(made)) > len(seeds) + 30


def _bad(data: bytes) -> Taken:
    match data:
        case b"crash":
            raise ValueError("a bad input")
        case b"hang":
            while True:
                pass
        case b"wait":
            time.sleep(3600)
        case b"memory":
            held = bytearray(worker.MEMORY + (64 << 20))
            return Taken(len(held))
        case b"much":
            return Taken(len(bytearray(1 << 40)))
        case b"kill":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"nothing":
            return Taken()
        case b"exit":
            raise SystemExit(0)
    return Taken(1)


def test_what_breaks_a_door_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [b"good", b"crash", b"hang", b"good", b"wait", b"memory", b"much", b"kill",
              b"nothing", b"", b"exit", b"good"]  # fmt: skip
    monkeypatch.setattr(worker, "SECONDS", 0.5)
    monkeypatch.setattr(worker, "WAITING_S", 2.0)
    monkeypatch.setattr(worker, "MEMORY", 600 << 20)
    door = Door("bad", _bad, lambda: inputs)
    monkeypatch.setitem(DOORS, "bad", door)
    found = fuzz(door, SEED, 0, len(inputs))
    kinds = {inputs[each.index].decode(): each.kind for each in found.broken}
    assert kinds == {
        "crash": "crash", "hang": "hang", "wait": "hang", "memory": "memory", "much": "memory",
        "kill": "killed", "nothing": "crash", "exit": "crash",
    }, found.broken  # fmt: skip
    assert found.inputs == len(inputs) and found.read == 5  # the one of much memory, too
    said = kept(found, SEED, tmp_path)
    assert any("ValueError: a bad input" in line for line in said)
    assert (tmp_path / f"bad-{SEED}-1").read_bytes() == b"crash"
    assert found.peak > worker.MEMORY


def test_the_command_prints_a_row_a_door(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--inputs=6", "--door=profile", "--door=dialect", f"--keep={tmp_path}"]
    assert main(flags) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[1:3]] == [["profile", "3"], ["dialect", "3"]]


# Few, because each goes through several doors.
FEWER = settings(max_examples=15)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["voltage_v", "Current(A)", "Timestamp", "test_time_s", "equipment_id", "extra", "state", "x"]
)


@FEWER
@given(st.lists(st.dictionaries(NAMES | st.text(max_size=8), VALUES, max_size=8), max_size=12))
def test_messages_of_any_fields_are_accounted_for(sent: list[dict[str, object]]) -> None:
    data = b"\n".join(json.dumps(each).encode() for each in sent)
    for name in ("payloads", "ndjson", "json", "pubsub"):
        DOORS[name].run(data)


@FEWER
@given(st.lists(st.lists(st.text(max_size=12) | st.floats().map(str), max_size=6), max_size=12))
def test_tables_of_any_cells_are_accounted_for(rows: list[list[str]]) -> None:
    head = "Date_Time,Voltage(V),Current(A),Cycle_Index,State"
    text = "\n".join([head, *(",".join(row) for row in rows)])
    DOORS["delimited"].run(text.encode("utf-8", "replace"))


@FEWER
@given(st.binary(max_size=400) | st.text(max_size=80).map(str.encode))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    for name in ("unnamed", "mpr", "res", "parquet", "profile", "dialect", "address"):
        DOORS[name].run(data)
