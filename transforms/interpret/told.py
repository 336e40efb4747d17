"""What the user says about how files are read (--dialect); no witness overrules it."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.aliases import WITNESSES, dimension_of, meaning
from schemas.reading import READING
from schemas.units import Dimension, parse
from transforms.convert import Notation
from transforms.interpret.interpretation import Sign

_KEYS = ("files", "columns", "units", "ignore", "sign", "decimal", "date_order")


class ToldError(ValueError):
    """The text can't be used; the message names the key and the fix."""


@dataclass(frozen=True)
class Told:
    """What was said; empty where nothing was.

    Attributes:
        files: shell patterns of the file names it applies to; all files if empty.
        columns: (field, column) pairs.
        units: (column, unit) pairs.
        ignore: columns that stand for no field.
        sign: what a positive current does.
        notation: how numbers are written.
        day_first: whether day comes before month.
    """

    files: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    units: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()
    sign: Sign | None = None
    notation: Notation | None = None
    day_first: bool | None = None

    def covers(self, path: str) -> bool:
        """Whether it applies to a file, by its name or its path."""
        name = path.replace("\\", "/").rsplit("/", 1)[-1]
        return not self.files or any(
            fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(path, glob) for glob in self.files
        )


def _one_of(where: str, key: str, value: Any, allowed: Mapping[Any, Any]) -> Any:
    # A list or a table can't be looked up.
    if not isinstance(value, str | bool | int | float) or value not in allowed:
        raise ToldError(f"{where}: {key} must be one of {', '.join(allowed)}, got {value!r}")
    return allowed[value]


def _texts(where: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ToldError(f'{where}: {key} must be a list of texts, such as ["*.txt"]')
    return tuple(value)


def _pairs(where: str, key: str, value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise ToldError(f'{where}: [{key}] must hold lines such as voltage_v = "Ewe/V"')
    return tuple(value.items())


def told_from(values: Mapping[str, Any], where: str) -> Told:
    """What a parsed TOML file says; `where` names it in errors.

    Raises:
        ToldError: an unknown key, field or unit, or a value of the wrong type.
    """
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise ToldError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(_KEYS)}")
    columns = _pairs(where, "columns", values.get("columns", {}))
    fields = {field.name for field in READING.fields if not field.derived} | WITNESSES
    for field, _ in columns:
        if field not in fields:
            raise ToldError(
                f"{where}: [columns] {field}: no such field; the fields are {', '.join(sorted(fields))}"
            )
    units = _pairs(where, "units", values.get("units", {}))
    by_column = {column: field for field, column in columns}
    for column, unit in units:
        named = meaning(column)
        meant = by_column.get(column, named.field if named is not None else None)
        if meant is None:
            raise ToldError(
                f"{where}: [units] {column}: no field is known for this column; add it to [columns]"
            )
        if dimension_of(meant) is Dimension.NONE or parse(unit, dimension_of(meant)) is None:
            raise ToldError(f"{where}: [units] {column}: {unit!r} is not a unit of {meant}")
    sign = notation = day_first = None
    if "sign" in values:
        sign = _one_of(where, "sign", values["sign"], {item.value: item for item in Sign})
    if "decimal" in values:
        notation = _one_of(where, "decimal", values["decimal"], {n.value: n for n in Notation})
    if "date_order" in values:
        day_first = _one_of(where, "date_order", values["date_order"], {"mdy": False, "dmy": True})
    return Told(
        files=_texts(where, "files", values.get("files", [])),
        columns=columns,
        units=units,
        ignore=_texts(where, "ignore", values.get("ignore", [])),
        sign=sign,
        notation=notation,
        day_first=day_first,
    )
