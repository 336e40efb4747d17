"""No command prints, keeps or names a file after what must not be shown of an address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline import __main__ as run
from pipeline import export, inspect, load, models, publish, truth
from pipeline.report import __main__ as report
from tests.pipeline.test_shown import LOGINS, PARAMETERS, leaks

Main = Callable[[Sequence[str]], int]
# Every command with every flag that takes an address.
PLACES: list[tuple[Main, str, list[str]]] = [
    (run.main, "--source", []),
    (run.main, "--source", ["--dry_run", "--lake=none"]),
    (run.main, "--lake", ["--source=simulator:?equipment=1&readings=10"]),
    (run.main, "--lake", ["--dry_run", "--warehouse=none"]),
    (run.main, "--warehouse", ["--lake=none"]),
    (run.main, "--warehouse", ["--dry_run", "--lake=none"]),
    (run.main, "--dead_letter_topic", ["--lake=none"]),
    (run.main, "--checkpoint", ["--source=kafka://127.0.0.1:1/cells", "--lake=none"]),
    (publish.main, "--source", ["--to=kafka://127.0.0.1:1/cells"]),
    (publish.main, "--to", ["--timestamp=event"]),
    (inspect.main, "", []),
    (truth.main, "--source", []),
    (models.main, "--warehouse", []),
    (report.main, "--warehouse", []),
    (export.main, "--warehouse", []),
    (export.main, "--lake", []),
    (load.main, "--warehouse", ["--lake=gs://bucket/lake"]),
    (load.main, "--lake", ["--warehouse=bigquery://project/dataset"]),
]
# Of a source elsewhere with another value of its own, nothing is printed before it has answered.
ELSEWHERE = ("s3://", "https://")


def name(place: tuple[Main, str, list[str]]) -> str:
    return f"{place[0].__module__.removesuffix('.__main__').rpartition('.')[2]}{place[1]}"


# Every third form at each place, another third at the next; all of them in the long run.
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("place", PLACES, ids=name)
def test_nothing_of_an_address_s_secrets_gets_out(
    place: tuple[Main, str, list[str]],
    every: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    main, flag, others = place
    monkeypatch.chdir(tmp_path)
    for uri in [*LOGINS, *PARAMETERS][PLACES.index(place) % every :: every]:
        known = uri.startswith(ELSEWHERE) and uri in PARAMETERS
        if (flag == "--checkpoint" and uri in PARAMETERS) or known:
            continue  # a file of that name; nothing answers there
        status = main([f"{flag}={uri}" if flag else uri, *others])
        said = "".join(capfd.readouterr()) + caplog.text
        told = said.replace("hunter2=", "").replace("'hunter2'", "")
        assert status in (1, 2) and "error: " in said, (uri, said)
        assert not leaks(told), (uri, said)
        assert not any(map(leaks, map(str, tmp_path.rglob("*")))), uri
