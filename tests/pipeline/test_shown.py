"""Addresses lose their secrets and text its control characters, in every form anybody may type."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline import shown
from pipeline.errors import ConfigError

LOGINS = [
    "kafka://user:hunter2@broker:9092/cells",
    "KAFKA://user:hunter2@broker:9092/cells",
    "kafka://user%3Ahunter2%40broker:9092/cells",
    "kafka://user%253Ahunter2%2540broker:9092/cells",
    "kafka://user:hun/ter2@broker:9092/cells",
    "kafka://user:hun?ter2@broker:9092/cells",
    "kafka://user:hun#ter2@broker:9092/cells",
    "kafka://user:hun@ter2@broker:9092/cells",
    "kafka://a:9092,user:hunter2@broker:9092/cells",
    "kafka:/user:hunter2@broker/cells",
    "kafka:user:hunter2@broker/cells",
    "kafka//user:hunter2@broker/cells",
    " kafka://user:hunter2@broker/cells",
    "kafka+ssl://user:hunter2@broker/cells",
    "kafak://user:hunter2@broker/cells",
    "user:hunter2@broker:9092/cells",
    "pubsub://user:hunter2@project/cells",
    "bigquery://user:hunter2@project/cells",
    "cassandra://user:hunter2@node:9042/cells",
    "s3://AKIA123:hunter2@bucket/cells",
    "s3://AKIA123:hun/ter2@bucket/cells",
    "gs://user:hunter2@bucket/cells",
    "https://user:hunter2@host/cells",
    "https://hunter2@host/cells",
    "md:user:hunter2@cells",
    "duckdb:postgres://user:hunter2@host/cells",
]
PARAMETERS = [
    "md:?motherduck_token=hunter2",
    "md:cells?motherduck_token=hunter2",
    "MD:cells?MOTHERDUCK_TOKEN=hunter2",
    "md:cells%3Fmotherduck_token%3Dhunter2",
    "duckdb:cells.duckdb?motherduck_token=hunter2",
    "duckdb:md:cells?motherduck_token=hunter2",
    "kafka://broker/cells?password=hunter2&group=lab",
    "kafka://broker/cells?hunter2",
    "kafka://broker/cells?sasl.password=hunter2;group=lab",
    "pubsub://project/cells?key=hunter2",
    "bigquery://project/cells?hunter2=",
    "cassandra://node/cells?password=hunter2",
    "s3://bucket/cells.csv?X-Amz-Signature=hunter2",
    "https://host/cells.csv?sig=hunter2#hunter2",
]  # fmt: skip
SAFE = [
    "kafka://broker:9092,other:9092/cells?group=me@lab&start=earliest&reader=java",
    "kafka://[::1]:9092/cells?secret=projects/p/secrets/kafka",
    "pubsub://my-project/cells?ordered=true",
    "cassandra://node:9042/cells?consistency=ONE&ttl=90&round=voltage_v:3",
    "gs://bucket/lab@work/*.csv",
    "s3://bucket/cell?.csv",
    "simulator:?equipment=8&seed=2",
    "duckdb:/data/me@lab/cells.duckdb",
    "md:cells",
    "data/me@lab/cell?.csv",
    "/data/cells.zip",
]


def leaks(text: str) -> bool:
    return any(part in text for part in ("hunter2", "ter2", "hun/", "AKIA", "user:"))


@pytest.mark.parametrize("uri", LOGINS)
def test_a_login_is_never_shown(uri: str) -> None:
    assert shown.has_login(uri)
    assert not leaks(shown.address(uri))
    assert "cells" in shown.address(uri)
    with pytest.raises(ConfigError) as raised:
        shown.refuse_login("--source", uri)
    assert not leaks(str(raised.value))


@pytest.mark.parametrize("uri", PARAMETERS)
def test_the_value_of_a_parameter_nobody_knows_is_not_shown(uri: str) -> None:
    assert not shown.has_login(uri)
    # A name without its value is no secret, except where it stands in the value's place.
    assert "hunter2" not in shown.address(uri).removesuffix("hunter2=")


@pytest.mark.parametrize("uri", [*LOGINS, *PARAMETERS, *SAFE])
def test_what_may_be_shown_stays_as_it_is(uri: str) -> None:
    once = shown.address(uri)
    assert shown.address(once) == once
    if uri in SAFE:
        assert once == uri
        assert not shown.has_login(uri)


@pytest.mark.parametrize("uri", [uri for uri in LOGINS if "://" in uri and "%" not in uri])
def test_an_address_in_a_librarys_error_is_shown_without_its_login(uri: str) -> None:
    assert not leaks(shown.plain(f'Could not connect to the endpoint URL: "{uri}"'))


@pytest.mark.parametrize(
    ("text", "as_shown"),
    [
        ("cell\x1b]0;title\x07", "cell\\x1b]0;title\\x07"),
        ("cell\x9b31m", "cell\\x9b31m"),
        ("good\rbad\n2 cells", "good\\rbad\\n2 cells"),
        ("cell\u202e1_A", "cell\\u202e1_A"),
        ("half \udc80", "half \\udc80"),
        ("Zelle Ä 電池 µ", "Zelle Ä 電池 µ"),
    ],
)
def test_a_name_can_not_steer_the_terminal(
    text: str, as_shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown.plain(text) == as_shown
    shown.say(text)
    assert "\x1b" not in capsys.readouterr().out


def test_json_stays_json() -> None:
    text = shown.plain_json({"a": "\x1b\x9b\u202e Ä"})
    assert text == '{"a": "\\u001b\\u009b\\u202e Ä"}'


ODD = """
import logging, sys
from pipeline.shown import guard
guard()
logging.getLogger("x").warning("%s of kafka://u:hunter2@h/t", sys.argv[1])
raise RuntimeError(sys.argv[1])
"""


def test_log_lines_and_last_words_steer_nothing_either() -> None:
    argv = [sys.executable, "-c", ODD, "cell\x1b]0;x\x07\u202e"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "WARNING x: cell\\x1b]0;x\\x07\\u202e of kafka://h/t\n" in done.stderr
    assert done.stderr.endswith("RuntimeError: cell\\x1b]0;x\\x07\\u202e\n")
