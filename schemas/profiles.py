"""Equipment profiles: the bounds and nominal values per kind of equipment, read from data files."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from schemas.reading import EQUIPMENT_PROFILE, EQUIPMENT_TYPES

_GLOB = re.compile(r"\*|\?|\[(!?)(\]?[^\]]*)\]|.", re.DOTALL)


def _regex(glob: str) -> str:
    """A shell pattern as the body of a regular expression that RE2 and Python read alike."""

    def translate(part: re.Match[str]) -> str:
        sign = part.group()
        if sign == "*":
            return ".*"
        if sign == "?":
            return "."
        if part.group(2):
            members = re.sub(r"([\\\[\]^&~|])", r"\\\1", part.group(2))
            return f"[{'^' if part.group(1) else ''}{members}]"
        return re.escape(sign)

    return _GLOB.sub(translate, glob)


class ProfileError(ValueError):
    """A profile can't be used; the message names the file, the key and the fix."""


@dataclass(frozen=True)
class Profile:
    """Bounds and nominal values of the equipments whose id matches one of `equipment`.

    Beyond a `reject_` bound a reading is physically impossible and goes to the dead letters;
    beyond an operating limit it is kept and flagged, because a cell's most telling samples lie
    at its limits. None means that the rule is not applied.
    """

    name: str
    equipment_type: str = "battery_cell"
    equipment: tuple[str, ...] = ("*",)
    chemistry: str | None = None
    nominal_capacity_ah: float | None = None
    rated_current_a: float | None = None
    v_min_v: float | None = None
    v_max_v: float | None = None
    cutoff_current_a: float | None = None
    end_of_life_soh: float = 0.8
    nominal_frequency_hz: float | None = None
    temperature_min_c: float | None = None
    temperature_max_c: float | None = None
    voltage_margin_v: float = 0.05
    current_margin: float = 1.1
    frequency_margin: float = 0.05
    reject_voltage_v: float = 10.0
    reject_current_a: float | None = None
    reject_temperature_min_c: float = -40.0
    reject_temperature_max_c: float = 125.0
    gap_s: float = 120.0
    gap_cv_s: float = 1800.0
    cv_tolerance_v: float = 0.02
    stuck_readings: int = 10
    counter_jump_ah: float = 0.010

    @property
    def reject_current(self) -> float | None:
        """The current no such equipment can carry: given, or 20C of a cell's capacity, in A."""
        if self.reject_current_a is not None:
            return self.reject_current_a
        return None if self.nominal_capacity_ah is None else 20.0 * self.nominal_capacity_ah

    @property
    def pattern(self) -> str:
        """The ids it covers as one anchored regular expression (RE2)."""
        # Not by fnmatch.translate, whose atomic groups and \Z RE2 does not know.
        return f"^(?s:{'|'.join(_regex(glob) for glob in self.equipment)})$"

    def covers(self, equipment_id: str, equipment_type: str | None) -> bool:
        """Whether the profile speaks of this equipment; an unknown type fits every profile."""
        if equipment_type is not None and equipment_type != self.equipment_type:
            return False
        return any(fnmatch.fnmatchcase(equipment_id, glob) for glob in self.equipment)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "equipment_type": str,
    "equipment": list,
    "chemistry": str,
    "stuck_readings": int,
}


def profile_from(values: Mapping[str, Any], where: str) -> Profile:
    """A profile from a parsed file; `where` names it in errors.

    Raises:
        ProfileError: unknown or missing key, wrong type, or limits that contradict each other.
    """
    known = {field.name for field in fields(Profile)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ProfileError(
            f"{where}: unknown key {unknown[0]!r}; a profile may have {', '.join(sorted(known))}"
        )
    if "name" not in values:
        raise ProfileError(f'{where}: a profile needs a name, for example name = "my_cell"')
    for key, value in values.items():
        wanted = _TYPES.get(key, (int, float))
        if not isinstance(value, wanted) or isinstance(value, bool):
            kind = "a number" if wanted == (int, float) else f"of type {wanted}"
            raise ProfileError(f"{where}: {key} must be {kind}, got {value!r}")
    cleaned = dict(values)
    if "equipment" in cleaned:
        if not cleaned["equipment"] or not all(isinstance(g, str) for g in cleaned["equipment"]):
            raise ProfileError(f'{where}: equipment must list patterns, such as ["CS2_*"]')
        cleaned["equipment"] = tuple(cleaned["equipment"])
    profile = Profile(**cleaned)
    try:
        re.compile(profile.pattern)
    except re.error as error:
        raise ProfileError(f"{where}: equipment holds a pattern that is none: {error}") from error
    if profile.equipment_type not in EQUIPMENT_TYPES:
        raise ProfileError(
            f"{where}: equipment_type must be one of {', '.join(EQUIPMENT_TYPES)}, "
            f"got {profile.equipment_type!r}"
        )
    for low, high in (("v_min_v", "v_max_v"), ("temperature_min_c", "temperature_max_c")):
        bottom, top = getattr(profile, low), getattr(profile, high)
        if bottom is not None and top is not None and bottom >= top:
            raise ProfileError(f"{where}: {low} ({bottom}) must be below {high} ({top})")
    return profile


def parse(text: str, where: str) -> Profile:
    """A profile from TOML text; `where` names the file in errors."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where}: not valid TOML: {error}") from error
    return profile_from(values, where)


def _read(path: Path) -> Profile:
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: not valid TOML: {error}; save it as UTF-8") from error


@cache
def built_in() -> tuple[Profile, ...]:
    """The profiles that ship with the job; those for named cells before the generic ones."""
    folder = resources.files("schemas") / "profiles"
    found = [
        parse(entry.read_text(encoding="utf-8"), entry.name)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    ]
    return tuple(sorted(found, key=lambda profile: (profile.equipment == ("*",), profile.name)))


def load(names: Iterable[str] = ()) -> tuple[Profile, ...]:
    """The profiles to use, the first that covers an equipment wins.

    Each of `names` is a TOML file, which goes before the built-in profiles, or the name of a
    built-in profile, which then covers every equipment of its type.

    Raises:
        ProfileError: a name is neither, or its file is not a valid profile.
    """
    chosen: list[Profile] = []
    shipped = {profile.name: profile for profile in built_in()}
    for name in names:
        path = Path(name)
        if name in shipped:
            chosen.append(replace(shipped[name], name=f"{name}_for_all", equipment=("*",)))
        elif path.is_file():
            chosen.append(_read(path))
        else:
            raise ProfileError(
                f"{name}: neither a profile file nor one of {', '.join(sorted(shipped))}"
            )
    chosen += shipped.values()
    seen: set[str] = set()
    for profile in chosen:
        if profile.name in seen:
            raise ProfileError(f"profile {profile.name}: the name is taken; choose another one")
        seen.add(profile.name)
    return tuple(chosen)


def choose(
    profiles: Iterable[Profile], equipment_id: str, equipment_type: str | None
) -> Profile | None:
    """The first profile that covers the equipment, or None."""
    for profile in profiles:
        if profile.covers(equipment_id, equipment_type):
            return profile
    return None


# A warehouse keeps the profiles of every job that wrote to it; what ships with the job comes
# after all that users brought.
_BUILT_IN_PRIORITY = 1000


def rows(profiles: Iterable[Profile]) -> list[dict[str, Any]]:
    """The profiles as rows of the `equipment_profiles` table, the first one with lowest priority."""
    shipped = {profile.name for profile in built_in()}
    return [
        {
            "profile": profile.name,
            "priority": priority + (_BUILT_IN_PRIORITY if profile.name in shipped else 0),
            "equipment_pattern": profile.pattern,
        }
        | {
            field.name: getattr(profile, field.name)
            for field in EQUIPMENT_PROFILE.fields
            if field.name not in ("profile", "priority", "equipment_pattern")
        }
        for priority, profile in enumerate(profiles)
    ]
