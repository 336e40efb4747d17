"""What one file or one message may take of memory and time, and the flag that allows more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

MIB = 1 << 20

# The error of everything that is over a limit.
TOO_LARGE = "too_large"
# What a dead letter keeps of a payload or of a message's headers, bytes: warehouses limit a row.
LETTER_BYTES = MIB


class BudgetError(ValueError):
    """A `--limit` that can't be used; the message names it and the fix."""


def _limit(default: int, about: str) -> int:
    value: int = field(default=default, metadata={"about": about})
    return value


@dataclass(frozen=True)
class Budget:
    """The limits; each is raised with `--limit NAME=NUMBER`."""

    unpacked_mb: int = _limit(16_384, "MiB of one file when it is unpacked, all members together")
    ratio: int = _limit(400, "unpacked size over packed size, above 64 MiB unpacked")
    members: int = _limit(20_000, "files in an archive, and in the archives in it")
    held_mb: int = _limit(
        256, "MiB of what is read in one piece: a workbook, a JSON document, a cycler's binary file"
    )
    columns: int = _limit(2_000, "columns of one table")
    cells: int = _limit(12_000_000, "rows times columns of what is read in one piece")
    in_order_rows: int = _limit(
        12_000_000, "rows of a test that can't be read in parts, because rows depend on others"
    )
    message_kb: int = _limit(4_096, "KiB of one message, or of one line of a file of messages")
    names: int = _limit(1_000, "names of fields in one message")
    text: int = _limit(512, "characters of an id or a name")

    @property
    def held_bytes(self) -> int:
        """`held_mb` in bytes."""
        return self.held_mb * MIB

    @property
    def unpacked_bytes(self) -> int:
        """`unpacked_mb` in bytes."""
        return self.unpacked_mb * MIB

    @property
    def message_bytes(self) -> int:
        """`message_kb` in bytes."""
        return self.message_kb * 1024

    def over(self, name: str, what: str) -> str:
        """What to say of something that is over the limit `name`.

        >>> Budget().over("names", "the message has 4,000 names of fields")
        'the message has 4,000 names of fields; the limit is 1,000: allow more with --limit names=…'
        """
        return f"{what}; the limit is {getattr(self, name):,}: allow more with --limit {name}=…"


USUAL = Budget()
ABOUT = {each.name: str(each.metadata["about"]) for each in fields(Budget)}


def budget_from(given: Iterable[str]) -> Budget:
    """The limits with those that a user gives as `NAME=NUMBER[,NAME=NUMBER…]`.

    Raises:
        BudgetError: there is no such limit, or the number is none.
    """
    values: dict[str, int] = {}
    for each in (part for text in given for part in text.split(",")):
        name, _, number = each.partition("=")
        if name not in ABOUT:
            raise BudgetError(f"{each}: no such limit; there are {', '.join(ABOUT)}")
        if not number.isdecimal() or not 0 < int(number) < 2**40:
            raise BudgetError(f"{each}: must be a whole number above 0, such as {name}=1000")
        values[name] = int(number)
    return Budget(**values)
