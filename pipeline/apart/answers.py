"""What the functions of a child raise, for whoever asked."""

from __future__ import annotations


class Told(ValueError):
    """What a child says of a file; travels back as it is."""


class Locked(Told):
    """The workbook has a password."""


class TooManyCells(Told):
    """The sheets have more cells than they may; the argument says how many."""


class Broken(Told):
    """The library can't read the file; the argument says why."""
