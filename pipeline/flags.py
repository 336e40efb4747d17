"""What the flags of several commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from pipeline.errors import ConfigError


class CommandFlags(argparse.ArgumentParser):
    """A command's parser, which raises ConfigError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong, where argparse would end the process."""
        raise ConfigError(message.removeprefix("argument "))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, which takes the value `--` for none at all and gives a list for it."""
        for each in args or ():
            name, equals, value = str(each).partition("=")
            if equals and value == "--" and name.startswith("--"):
                raise ConfigError(f"{name}=--: is no value; give one, or leave the flag out")
        return super().parse_known_args(args, namespace)

    def known(self, argv: Sequence[str]) -> argparse.Namespace:
        """The flags' values; ConfigError for one that nobody knows, or a value of no use."""
        given: argparse.Namespace
        given, unknown = self.parse_known_args(list(argv))
        if unknown:
            raise ConfigError(
                f"{unknown[0].split('=')[0]}: no such flag; see --help for the flags there are"
            )
        return given


def shared_flags(
    given: argparse.Namespace, names: Sequence[str], several: Sequence[str]
) -> list[str]:
    """The flags among a command's that are the job's own, as the job is given them.

    Args:
        given: the command's flags.
        names: of those with one value, which are left out where it is empty.
        several: of those that may be repeated.
    """
    flags = [f"--{name}={value}" for name in names if (value := getattr(given, name))]
    return flags + [f"--{name}={value}" for name in several for value in getattr(given, name)]
