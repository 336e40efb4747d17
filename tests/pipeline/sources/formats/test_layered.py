"""Records under their steps and cycles become rows that know both, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.sources.reading import read_file

LEVELS = ["Cycle ID,Cap_Chg(mAh)", ",Step ID,Step Type", ",,Record ID,Time,Voltage(V),Current(mA)"]


def layered(ends: str = "\n", damage: dict[int, str] | None = None) -> bytes:
    """Two cycles of a charge and a discharge of three records each."""
    lines, record = list(LEVELS), 0
    for cycle in (1, 2):
        lines.append(f"{cycle},0.1")
        for step, (word, sign) in enumerate((("CC Chg", 1), ("CC DChg", -1)), 2 * cycle - 1):
            lines.append(f",{step},{word}")
            for at in range(3):
                record += 1
                lines.append(
                    f",,{record},0:00:{10 * at:02d},{3.5 + sign * at / 10:.1f},{sign * 100}"
                )
    for at, text in (damage or {}).items():
        lines[at] = text
    return ends.join([*lines, ""]).encode()


@pytest.mark.parametrize(
    ("ends", "encoding"), [("\n", "utf-8"), ("\r\n", "utf-8"), ("\r", "utf-8"), ("\n", "utf-16")]
)
def test_every_record_has_its_cycle_step_and_type(tmp_path: Path, ends: str, encoding: str) -> None:
    found = read_file(tmp_path, "lab/N1.csv", layered(ends).decode().encode(encoding))
    assert not found.letters
    assert found.column("Record ID") == [str(at) for at in range(1, 13)]
    assert found.column("Cycle ID") == ["1"] * 6 + ["2"] * 6
    assert found.column("Step ID") == [str(at) for at in (1, 2, 3, 4) for _ in range(3)]
    assert found.column("Step Type") == (["CC Chg"] * 3 + ["CC DChg"] * 3) * 2
    (batch,) = found.batches
    assert batch.origin.equipment_id == "N1"


def test_a_record_that_cannot_be_read_is_a_dead_letter_with_its_line(tmp_path: Path) -> None:
    found = read_file(tmp_path, "N1.csv", layered(damage={6: ",,2,0:00:10,3.6,100,x,y,z"}))
    assert [(letter["error_type"], letter["position"]) for letter in found.letters] == [
        ("wrong_column_count", "line 7")
    ]
    assert found.column("Record ID") == [str(at) for at in range(1, 13) if at != 2]
    assert found.column("Cycle ID") == ["1"] * 5 + ["2"] * 6


def test_records_before_any_step_belong_to_none(tmp_path: Path) -> None:
    text = "\n".join(
        [*LEVELS, ",,1,0:00:00,3.5,100", "1,0.1", ",1,CC Chg", ",,2,0:00:10,3.6,100", ""]
    )
    found = read_file(tmp_path, "N1.csv", text.encode())
    assert found.column("Cycle ID") == [None, "1"] and found.column("Step ID") == [None, "1"]


def test_a_file_that_ends_with_its_headers_gives_nothing(tmp_path: Path) -> None:
    found = read_file(tmp_path, "N1.csv", ("\n".join(LEVELS) + "\n").encode())
    assert not found.batches and not found.letters


def test_records_alone_have_no_cycle(tmp_path: Path) -> None:
    text = "\n".join([*LEVELS, ",,1,0:00:00,3.5,100", ",,2,0:00:10,3.6,100", ""])
    found = read_file(tmp_path, "N1.csv", text.encode())
    assert found.column("Voltage(V)") == ["3.5", "3.6"] and found.column("Cycle ID") == [None] * 2
