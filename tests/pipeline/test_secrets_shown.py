"""No command prints, keeps or names a file after what must not be shown of an address."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import __main__ as run
from pipeline import export, inspect, load, models, publish, replay, truth
from pipeline.engines import dataflow
from pipeline.errors import ConfigError
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
    (replay.main, "--lake", ["--set=v=1", "--to=kafka://127.0.0.1:1/cells"]),
    (replay.main, "--warehouse", ["--set=v=1", "--to=kafka://127.0.0.1:1/cells"]),
    (replay.main, "--remember", ["--lake=x", "--set=v=1", "--to=kafka://127.0.0.1:1/cells"]),
    (replay.main, "--to", ["--lake=x", "--set=v=1"]),
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


@pytest.mark.parametrize("name", ["s3_access_key_id", "s3_secret_access_key", "s3_session_token"])
def test_no_key_gets_into_the_options_of_a_job_on_dataflow(name: str) -> None:
    flags = [f"--{name}=hunter2", "--project=p", "--region=r", "--temp_location=gs://b/t"]
    flags += ["--sdk_container_image=i"]
    with pytest.raises(ConfigError, match=f"^--{name}: would stand in") as raised:
        dataflow.check(PipelineOptions(flags))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "uri", [uri for uri in LOGINS if not uri.startswith(("md:", "duckdb:", "https", "user", " "))]
)
def test_the_template_takes_no_login(uri: str) -> None:
    text = (Path(__file__).parents[2] / "deploy" / "template" / "metadata.json").read_text()
    for one in json.loads(text)["parameters"]:
        if one["name"] in ("source", "lake", "warehouse", "dead_letter_topic"):
            assert not re.fullmatch(one["regexes"][0], uri), one["name"]
