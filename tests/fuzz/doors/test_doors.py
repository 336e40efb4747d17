"""No changed input breaks a way in: the fuzzer's short form, and properties of single doors."""

from __future__ import annotations

import json
import os
import resource
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
from tests.fuzz.doors.sharing import fuzz, fuzz_all, shared
from tests.fuzz.doors.worker import input_of
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
    monkeypatch.setattr(worker, "SECONDS", 1.0)
    monkeypatch.setattr(worker, "WAITING_S", 6.0)
    # A child begins with what this process has, which is more after other tests.
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    monkeypatch.setattr(worker, "MEMORY", here + (200 << 20))
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
    flags = ["--inputs=80", "--jobs=2", "--door=profile", "--door=ndjson", f"--keep={tmp_path}"]
    assert main(flags) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[1:3]] == ["profile", "ndjson"]
    counts = [int(line.split()[1]) for line in shown[1:3]]
    assert sum(counts) == 80 and min(counts) >= 10
    assert shown[-1].startswith("80 inputs in ")


def test_inputs_are_shared_by_what_they_cost() -> None:
    assert shared(100, [1.0, 1.0, 2.0]) == [25, 25, 50]
    for inputs in (0, 1, 7, 1_000_003):
        found = shared(inputs, [3.1, 700.0, 41.5])
        assert sum(found) == inputs and min(found) >= 0
    assert shared(-3, [1.0, 2.0]) == [0, 0]


def _slow(_: bytes) -> Taken:
    end = time.process_time() + 0.01
    while time.process_time() < end:
        pass
    return Taken(1)


def test_a_slow_door_gets_fewer_but_not_none() -> None:
    doors = [
        Door("quick", lambda _: Taken(1), lambda: [b"x"]), Door("slow", _slow, lambda: [b"x"]),
    ]  # fmt: skip
    given: dict[str, int] = {}
    fuzz_all(doors, SEED, 4_000, 2, lambda door, found: given.update({door.name: found.inputs}))
    assert sum(given.values()) == 4_000
    assert 500 <= given["slow"] < 1_000


def test_the_same_inputs_break_a_door_however_many_processes_take_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.fuzz.doors.sharing.TOGETHER", 7)
    door = Door("odd", _odd, lambda: [b"abc", b"1234567890"])
    found = [fuzz(door, SEED, 5, 100, jobs) for jobs in (1, 3)]
    broken = [sorted((each.index, each.kind) for each in figures.broken) for figures in found]
    assert broken[0] == broken[1] and len({kind for _, kind in broken[0]}) == 2
    assert [figures.inputs for figures in found] == [100, 100]


def _odd(data: bytes) -> Taken:
    if sum(data) % 5 == 0:
        raise ValueError("a sum of fives")
    if sum(data) % 7 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return Taken(1)


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
