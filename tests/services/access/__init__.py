"""Writes Access databases, and reads them a second way, with the Java library Jackcess."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.services import maven
from tests.services.processes import Unavailable, java

JACKCESS, ENCRYPT = "4.0.8", "4.0.3"
_PROGRAM = Path(__file__).with_name("Access.java")


class Access:
    """The program, with the jars that it needs.

    Raises:
        Unavailable: no Java with its compiler, or Maven can't get Jackcess.
    """

    def __init__(self) -> None:
        self._java = java(11)
        modules = subprocess.run(
            [self._java, "--list-modules"], capture_output=True, text=True, check=False
        )
        if "jdk.compiler" not in modules.stdout:
            raise Unavailable(f"{self._java} has no compiler; install a JDK")
        self._jars = maven.jars(
            f"jackcess-{JACKCESS}",
            [
                f"com.healthmarketscience.jackcess:jackcess:{JACKCESS}",
                f"com.healthmarketscience.jackcess:jackcess-encrypt:{ENCRYPT}",
            ],
        )

    def write(self, path: Path, lines: Sequence[Sequence[object]], version: str = "V2000") -> bytes:
        """A new database as the lines say (see Access.java), None being a missing value.

        Args:
            path: where it is written.
            lines: what to do, one after another.
            version: Jackcess' name of the format: V2000 and V2003 are Jet 4, V2010 is ACE.
        """
        text = "\n".join(
            "\t".join("" if word is None else str(word) for word in line) for line in lines
        )
        self._run("write", str(path), version, text=text)
        return path.read_bytes()

    def read(self, path: Path, table: str) -> list[list[str]]:
        """The rows of a table, each value as Java prints it."""
        return [line.split("\t") for line in self._run("read", str(path), table).splitlines()]

    def _run(self, *arguments: str, text: str = "") -> str:
        argv = [self._java, "-cp", f"{self._jars}/*", str(_PROGRAM), *arguments]
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def encoded(data: bytes, key: int) -> bytes:
    """A Jet 4 database with its pages encoded under a key, as Access' own tool leaves it."""
    mask = b"\xc7\xda\x39\x6b"
    head = bytearray(_rc4(mask, data[24:152]))
    head[38:42] = key.to_bytes(4, "little")
    pages = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    pages[0] = data[:24] + _rc4(mask, bytes(head)) + pages[0][152:]
    return pages[0] + b"".join(
        _rc4((key ^ number).to_bytes(4, "little"), page)
        for number, page in enumerate(pages)
        if number
    )


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    out = bytearray()
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
