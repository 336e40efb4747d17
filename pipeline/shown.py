"""What a person may see: addresses without their secrets, text without control characters."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import unquote

from pipeline.errors import ConfigError

# Parameters of addresses whose values are nobody's secret (`secret` holds a secret's id).
_HARMLESS = frozenset(
    {
        "consistency", "datacenter", "disorder", "group", "id_label", "ordered", "reader",
        "replication", "round", "secret", "start", "timestamp_attribute", "ttl",
    }
)  # fmt: skip
_HIDDEN = "…"
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):(/*)")
_HOSTS = re.compile(
    r"(\[[0-9A-Fa-f:.]*\]|[^\[\]:,/?#@]+)(:\d{0,5})?(,(\[[0-9A-Fa-f:.]*\]|[^\[\]:,/?#@]+)(:\d{0,5})?)*"
)
_BUCKET = re.compile(r"[A-Za-z0-9._*?\[\]-]*")
# From where a part of the path begins, or a row of colons would take the square of its length.
_LOGIN_IN_PATH = re.compile(r"(?<![^/@\s])[^/@:\s]*+:[^/@\s]*+@(?=[^/@\s])")
_PARAMETERS = re.compile(r"[?#][^/?#=&;]*=")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")
# An `@` in an object's name is a sign like others there, and `?` a wildcard.
_BUCKETS = ("gs", "s3")
# Addresses whose own scheme is followed by a name or path, not by a host.
_WITHOUT_HOST = ("duckdb", "md", "simulator")
# What percent signs hide: encoded once, or by a careful person twice.
_DECODINGS = 3

# Control characters of both sets, marks that turn the direction of text, line ends that are not
# `\n`, and halves of characters, which can't be printed at all.
_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def address(uri: str) -> str:
    """An address as it may be printed and stored: without user, password and parameters' values.

    Values of parameters that are known and harmless stay; a path of this machine stays as it is.
    The login is found however the address is misspelt: with any scheme or none, in capitals,
    percent-encoded, with `/`, `?` or `@` in the password.

    >>> address("kafka://me:word@broker:9092/cells?group=lab&token=abc")
    'kafka://broker:9092/cells?group=lab&token=…'
    """
    return _split(uri)[0]


def has_login(uri: str) -> bool:
    """Whether an address carries a user or password."""
    return _split(uri)[1]


def refuse_login(flag: str, uri: str) -> None:
    """Looks whether an address that a flag gives carries a user or password.

    Raises:
        ConfigError: it does; the message shows neither.
    """
    if has_login(uri):
        raise ConfigError(
            f"{flag}={address(uri)}: a name or password must not stand in the address, where "
            "others can see it; credentials come from the environment"
        )


def _split(uri: str) -> tuple[str, bool]:
    """The address as it may be shown, and whether it carries a login."""
    uri = _decoded(uri)
    match = _SCHEME.match(uri)
    if match is None:
        shown, logins = _LOGIN_IN_PATH.subn("", uri)
        return shown, bool(logins)
    head, rest, kind = match[0].lstrip(), uri[match.end() :], match[1].lower()
    login = False
    if kind == "duckdb":
        rest, login = _split(rest)
    elif kind != "simulator":
        rest, login = _without_login(kind, rest)
        # `user:password@host` has no scheme: what stands before the colon is the user.
        head = "" if login and not match[2] and kind not in (*_WITHOUT_HOST, *_BUCKETS) else head
    if kind != "simulator":
        rest = _without_values(kind, rest)
    return head + rest, login


def _decoded(uri: str) -> str:
    """The address itself, unless percent signs hide what tells its parts apart."""
    decoded = uri
    for _ in range(_DECODINGS):
        decoded = unquote(decoded)
    return decoded if any(decoded.count(sign) != uri.count(sign) for sign in "@?") else uri


def _without_login(kind: str, rest: str) -> tuple[str, bool]:
    at = rest.rfind("@")
    if at < 0:
        return rest, False
    place = re.split("[?#]", rest, maxsplit=1)[0]
    authority = place.partition("/")[0]
    if kind in _BUCKETS:
        login = "@" in authority or not _BUCKET.fullmatch(authority)
    else:
        login = "@" in place or not _HOSTS.fullmatch(authority)
    return (rest[at + 1 :], True) if login else (rest, False)


def _without_values(kind: str, rest: str) -> str:
    found = (
        _PARAMETERS.search(rest)
        if kind in (*_BUCKETS, "duckdb")
        else re.search("[?#]", rest)
    )  # fmt: skip
    if found is None:
        return rest
    query = rest[found.start() + 1 :]
    shown = "".join(_parameter(piece) for piece in re.split("([&;#])", query))
    return rest[: found.start() + 1] + shown


def _parameter(piece: str) -> str:
    name, separator, value = piece.partition("=")
    if piece in ("", "&", ";", "#", _HIDDEN) or (separator and name in _HARMLESS):
        return piece
    named = separator and re.fullmatch("[A-Za-z_][A-Za-z0-9_.-]{0,39}", name)
    return f"{name}={_HIDDEN if value else ''}" if named else _HIDDEN


def plain(text: str) -> str:
    r"""Text as one line of a terminal: control characters and direction marks as escapes.

    Names and messages may hold what comes from a file, which must not move the cursor, name the
    window, or write another line. Addresses in it lose their secrets.

    >>> plain("cell\x1b[31m")
    'cell\\x1b[31m'
    """
    text = _IN_TEXT.sub(lambda found: address(found[0]), text)
    return _CONTROLS.sub(lambda found: _escaped(found[0]), text)


def _escaped(sign: str) -> str:
    return json.dumps(sign)[1:-1] if sign in "\n\r\t" else _code(sign)


def _code(sign: str) -> str:
    return f"\\x{ord(sign):02x}" if ord(sign) < 0x100 else f"\\u{ord(sign):04x}"


def plain_json(value: Any) -> str:
    """A value as one line of JSON, readable, and without what a terminal might obey."""
    text = json.dumps(value, ensure_ascii=False)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(*lines: str, error: bool = False) -> None:
    """Prints lines for a person: everything that a command prints goes through here."""
    stream: TextIO = sys.stderr if error else sys.stdout
    for line in lines:
        print(plain(line), file=stream)
    stream.flush()


class PlainLines(logging.Formatter):
    """Log lines, and the tracebacks below them, as a terminal may have them."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return "\n".join(plain(line) for line in super().format(record).split("\n"))


def guard() -> None:
    """Makes log lines and the traceback of an error that ends the process plain, too."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(PlainLines("%(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)
        root.setLevel(logging.WARNING)
    sys.excepthook = _last_words


def _last_words(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    text = "".join(traceback.format_exception(kind, error, trace))
    say(*text.rstrip("\n").split("\n"), error=True)
