"""The doors of what a user says: profiles, dialects, mappings, limits, and addresses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

from pipeline import registry
from pipeline.connect.cassandra import CassandraAddress
from pipeline.connect.kafka import KafkaAddress
from pipeline.connect.pubsub import PubSubAddress
from pipeline.errors import ConfigError
from pipeline.options import config_from, parse
from schemas.profiles import ProfileError, built_in
from schemas.profiles import load as load_profiles
from tests.fuzz.doors.door import Door, Taken

_FLAGS = ("--source", "--lake", "--warehouse", "--dead_letter_topic", "--checkpoint", "--limit",
          "--window", "--time_zone", "--equipment_id")  # fmt: skip


def _file_of(flag: str) -> Callable[[bytes], Taken]:
    def run(data: bytes) -> Taken:
        with tempfile.NamedTemporaryFile(suffix=".toml") as file:
            Path(file.name).write_bytes(data)
            try:
                config_from(parse([f"{flag}={file.name}"]))
            except ConfigError as error:
                return _said(error)
            return Taken(1)

    return run


def _said(error: Exception) -> Taken:
    if not str(error).strip():
        raise AssertionError(f"{type(error).__name__} says nothing")
    return Taken(0, 1)


def _profile(data: bytes) -> Taken:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        Path(file.name).write_bytes(data)
        try:
            found = load_profiles([file.name])
        except ProfileError as error:
            return _said(error)
    for profile in found:
        profile.covers("CS2_35" * 20, None)
    return Taken(1)


def _profiles() -> list[bytes]:
    folder = Path(__file__).parents[3] / "schemas" / "profiles"
    assert built_in()
    texts = [path.read_bytes() for path in sorted(folder.glob("*.toml"))]
    return [text.replace(b'name = "', b'name = "own_', 1) for text in texts]


def _dialects() -> list[bytes]:
    return [
        (
            b'files = ["*.txt"]\nsign = "discharge_positive"\ndecimal = ","\ndate_order = "dmy"\n'
            b'ignore = ["x"]\n[columns]\nvoltage_v = "Ewe/V"\n[units]\n"Ewe/V" = "mV"\n'
        ),
        b'[columns]\ncurrent_a = "Kanal 3 [mA]"\n',
        b'sign = "charge_positive"\n',
    ]


def _address(data: bytes) -> Taken:
    """The text as the value of a flag, and as each kind of address."""
    text = data.decode("utf-8", "surrogateescape").replace("\x00", "")
    refused = read = 0
    # One of them, by the text: Beam takes its time to find out which flags there are.
    flag = _FLAGS[crc32(data) % len(_FLAGS)]
    try:
        config = config_from(parse([f"{flag}={text}"]))
        registry.scheme(config.source)
    except ConfigError as error:
        refused += _said(error).refused
    kinds: tuple[Callable[[], object], ...] = (
        lambda: KafkaAddress.parse(text, "--source", ("group", "start", "disorder", "reader")),
        lambda: PubSubAddress.parse(text, "--source", "subscription", ("disorder",)),
        lambda: CassandraAddress.parse(text, "--warehouse", ("datacenters", "ttl")),
    )
    for kind in kinds:
        try:
            str(kind())
        except ConfigError as error:
            refused += _said(error).refused
        else:
            read += 1
    return Taken(int(read > 0), int(refused > 0))


def _addresses() -> list[bytes]:
    return [
        b"kafka://localhost:9092,[::1]:9093/battery?group=lab&start=2024-06-01T12:00:00Z",
        b"pubsub://my-project/battery-sub?disorder=5",
        b"cassandra://a:9042,b/keyspace?datacenters=dc1:3",
        b"simulator:?equipment=8&cycles=3",
        b"gs://bucket/prefix/*.csv",
        b"duckdb:/tmp/x.duckdb",
        b"bigquery://my-project/battery",
        b"/data/lab/[0-9]*.csv",
        b"names=1000",
    ]


DOORS = [
    Door("profile", _profile, _profiles, words=[b'equipment = ["[!a]*"]', b"[[", b"'''"]),
    Door("dialect", _file_of("--dialect"), _dialects, words=[b"[columns]", b"inf", b"[[units]]"]),
    Door("address", _address, _addresses, words=[b"user:secret@", b"%00", b"?start=", b"://"]),
]
