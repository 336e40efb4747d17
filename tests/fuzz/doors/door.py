"""What a door is: a function of bytes, where its first inputs come from, how they are sealed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")


@dataclass(frozen=True)
class Taken:
    """What became of an input: readings that came out, and letters or errors that were said."""

    readings: int = 0
    refused: int = 0


class Unaccounted(AssertionError):
    """An input of which something is neither a reading nor refused."""


@dataclass(frozen=True)
class Door:
    """A way in.

    Attributes:
        name: how it is called on the command line.
        run: takes an input; may raise nothing, what is wrong with the input it counts.
        seeds: makes inputs that are good.
        pack: puts an input's parts together again so that checksums are right; None if it has none.
        unpack: takes them apart: what is changed then is what a checksum would hide.
        words: texts that mean something to it.
        unsaid: whether an input may end without a reading or a refusal: a table that has only a
            header.
    """

    name: str
    run: Callable[[bytes], Taken]
    seeds: Callable[[], Sequence[bytes]]
    unpack: Callable[[bytes], list[bytes]] | None = None
    pack: Callable[[bytes, list[bytes]], bytes] | None = None
    words: Sequence[bytes] = ()
    unsaid: bool = False

    def inputs(self) -> list[bytes]:
        """The good inputs, and those that broke it once."""
        kept = sorted((CORPUS / self.name).glob("*")) if (CORPUS / self.name).is_dir() else []
        return [*self.seeds(), *(path.read_bytes() for path in kept)]
