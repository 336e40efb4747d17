"""The keyspace that a `cassandra://` URI names, and how rows are to be kept there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline import shown
from pipeline.connect.cassandra import CassandraAddress
from pipeline.errors import ConfigError
from schemas.reading import READING, Kind

FLAG = "--warehouse"
_DAY_S = 86_400
# Cassandra's own limit, 20 years.
_LONGEST_TTL_S = 20 * 365 * _DAY_S
_MOST_DIGITS = 15
_DATACENTER = re.compile(r"([A-Za-z0-9_.-]+):(\d{1,2})")


@dataclass(frozen=True)
class Target:
    """A keyspace, and how rows are to be kept.

    Attributes:
        address: cluster and keyspace.
        ttl_s: seconds after which a row with a time is gone, counted from when it is written;
            0: never.
        digits: decimals that a field of the readings is rounded to, by name.
        replication: copies by data centre, for a keyspace that is yet to be made; `""` stands for
            every data centre, and nothing at all for three copies, as far as there are nodes.
    """

    address: CassandraAddress
    ttl_s: int = 0
    digits: tuple[tuple[str, int], ...] = ()
    replication: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, uri: str) -> Target:
        """The keyspace that `uri` names.

        Args:
            uri: `cassandra://HOST[:PORT][,HOST…]/KEYSPACE`, with any of the parameters
                `consistency=LEVEL`, `datacenter=NAME`, `ttl=DAYS`, `round=FIELD:DIGITS[,…]` and
                `replication=COPIES` or `replication=DATACENTER:COPIES[,…]`.

        Raises:
            ConfigError: it can't be used; the message names the flag and the fix.
        """
        address = CassandraAddress.parse(uri, FLAG, ("ttl", "round", "replication"))
        given = address.parameters
        return cls(address, _ttl_s(given, uri), _digits(given, uri), _replication(given, uri))

    @property
    def told(self) -> str:
        """The flag and its value, as messages begin."""
        return f"{FLAG}={self.address}"


def _ttl_s(given: Mapping[str, str], uri: str) -> int:
    text = given.get("ttl")
    if text is None:
        return 0
    try:
        seconds = float(text) * _DAY_S
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= _LONGEST_TTL_S:
        raise ConfigError(
            f"{FLAG}={shown.address(uri)}: ttl={text} must be the days until a row is gone, at most "
            f"{_LONGEST_TTL_S // _DAY_S}, such as ttl=90; leave it out to keep rows for ever"
        )
    return round(seconds)


def _digits(given: Mapping[str, str], uri: str) -> tuple[tuple[str, int], ...]:
    if "round" not in given:
        return ()
    numbers = [field.name for field in READING.fields if field.kind is Kind.DOUBLE]
    found: dict[str, int] = {}
    for part in given["round"].split(","):
        name, _, digits = part.partition(":")
        if name not in numbers:
            raise ConfigError(
                f"{FLAG}={shown.address(uri)}: {name!r} can't be rounded; give round=FIELD:DIGITS[,…] of "
                f"{', '.join(numbers)}"
            )
        if not digits.isdecimal() or int(digits) > _MOST_DIGITS:
            raise ConfigError(
                f"{FLAG}={shown.address(uri)}: round={part} needs a number of decimals from 0 to {_MOST_DIGITS}, "
                f"such as {name}:3"
            )
        if name in found:
            raise ConfigError(f"{FLAG}={shown.address(uri)}: round names {name} twice; drop one")
        found[name] = int(digits)
    return tuple(found.items())


def _replication(given: Mapping[str, str], uri: str) -> tuple[tuple[str, int], ...]:
    text = given.get("replication")
    if text is None:
        return ()
    if text.isdecimal() and int(text):
        return (("", int(text)),)
    found = []
    for part in text.split(","):
        match = _DATACENTER.fullmatch(part)
        if match is None or not int(match[2]):
            raise ConfigError(
                f"{FLAG}={shown.address(uri)}: replication={text} must be a number of copies, such as 3, or one "
                "for each data centre, such as eu:3,us:2"
            )
        found.append((match[1], int(match[2])))
    return tuple(found)
