import fnmatch
import re
import tomllib
from dataclasses import fields

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import profiles
from schemas.profiles import Profile, ProfileError
from schemas.reading import EQUIPMENT_PROFILE


def test_the_built_in_profiles_are_those_of_named_cells_first():
    shipped = profiles.built_in()
    assert [p.name for p in shipped] == [
        "calce_cs2",
        "simulated_cell",
        "simulated_lfp",
        "simulated_nmc",
        "generic_li_ion",
        "generic_machine",
    ]
    calce = shipped[0]
    assert calce.equipment == ("CS2_*",)
    assert (calce.v_min_v, calce.v_max_v, calce.nominal_capacity_ah) == (2.7, 4.2, 1.1)
    assert calce.reject_current == pytest.approx(22.0)  # 20C
    assert (calce.reject_voltage_v, calce.voltage_margin_v, calce.current_margin) == (10, 0.05, 1.1)
    assert (calce.reject_temperature_min_c, calce.reject_temperature_max_c) == (-40, 125)
    assert (calce.gap_s, calce.gap_cv_s, calce.stuck_readings) == (120, 1800, 10)
    assert calce.counter_jump_ah == 0.010


def test_the_current_no_equipment_can_carry():
    assert Profile("a").reject_current is None
    assert Profile("a", nominal_capacity_ah=2.0).reject_current == 40.0
    assert Profile("a", nominal_capacity_ah=2.0, reject_current_a=5.0).reject_current == 5.0


def test_a_users_file_goes_before_the_built_in_ones(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nequipment = ["CS2_35", "X?"]\nv_max_v = 4\nstuck_readings = 3\n'
    )
    loaded = profiles.load([str(path)])
    assert [p.name for p in loaded][:2] == ["mine", "calce_cs2"]
    assert profiles.choose(loaded, "CS2_35", None).name == "mine"
    assert profiles.choose(loaded, "CS2_36", "battery_cell").name == "calce_cs2"
    assert profiles.choose(loaded, "X1", "machine").name == "generic_machine"
    assert profiles.choose(loaded, "X1", None).name == "mine"
    assert profiles.choose(loaded, "X12", None).name == "generic_li_ion"
    assert profiles.choose([loaded[0]], "other", None) is None


def test_a_built_in_name_makes_that_profile_cover_every_equipment_of_its_type():
    loaded = profiles.load(["calce_cs2"])
    assert loaded[0].name == "calce_cs2_for_all"
    assert profiles.choose(loaded, "anything", "battery_cell").name == "calce_cs2_for_all"
    assert profiles.choose(loaded, "anything", "machine").name == "generic_machine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "mine.toml: not valid TOML: "),
        ('equipment = ["a"]', "mine.toml: a profile needs a name"),
        ('name = "a"\nv_maximum = 4.2', "mine.toml: unknown key 'v_maximum'; .*v_max_v"),
        ("name = 5", "mine.toml: name must be "),
        ('name = "a"\nv_max_v = "4.2"', "mine.toml: v_max_v must be a number, got '4.2'"),
        ('name = "a"\nv_max_v = true', "mine.toml: v_max_v must be a number, got True"),
        ('name = "a"\nstuck_readings = 2.5', "mine.toml: stuck_readings must be "),
        ('name = "a"\nequipment = "CS2_*"', "mine.toml: equipment must be "),
        ('name = "a"\nequipment = []', "mine.toml: equipment must list patterns"),
        ('name = "a"\nequipment = ["[z-a]"]', "mine.toml: equipment holds a pattern that is none"),
        ('name = "a"\nequipment = [1]', "mine.toml: equipment must list patterns"),
        ('name = "a"\nequipment_type = "pump"', "mine.toml: equipment_type must be one of .*pump"),
        (
            'name = "a"\nv_min_v = 4.2\nv_max_v = 4.2',
            r"mine.toml: v_min_v \(4.2\) must be below v_m",
        ),
        (
            'name = "a"\ntemperature_min_c = 9\ntemperature_max_c = 5',
            r"mine.toml: temperature_min_c \(9\) must be below temperature_max_c \(5\)",
        ),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=message):
        profiles.load([str(path)])


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(ProfileError, match=r"mine\.toml: not valid TOML: "):
        profiles.load([str(path)])


def test_a_name_that_is_no_profile_lists_those_there_are():
    with pytest.raises(ProfileError, match=r"nowhere\.toml: neither .* calce_cs2, generic_li_ion"):
        profiles.load(["nowhere.toml"])


def test_a_name_given_twice_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "generic_li_ion"')
    with pytest.raises(ProfileError, match="generic_li_ion: the name is taken"):
        profiles.load([str(path)])


def test_the_shipped_files_say_what_the_profiles_hold():
    for profile in profiles.built_in():
        entry = profiles.resources.files("schemas") / "profiles" / f"{profile.name}.toml"
        values = tomllib.loads(entry.read_text(encoding="utf-8"))
        values["equipment"] = tuple(values["equipment"])
        assert values == {name: getattr(profile, name) for name in values}
        assert set(values) <= {field.name for field in fields(Profile)}


IDS = ["CS2_35", "cs2_35", "CS2_", "CS2", "xCS2_35", "CS2_35\n", "a.b", "axb", "a\nb", "[a]", "a]",
       "!", "^", "-", "b", "a\\b", "Ä-1", "a b", "a*b", "a?b", "", "(a|b)", "$"]  # fmt: skip
GLOBS = ["*", "CS2_*", "CS2_3?", "a.b", "a?b", "[ab]", "[!ab]", "[]]", "[!]]", "[a", "[a-c]*", "a\\b",
         "[^]", "Ä*", "a b", "a[*]b", "(a|b)", "$", "[\\]", "CS2_[0-9][0-9]", "*5", "[a]]", "[!]",
         "[]", "[[]a]", "[&&]"]  # fmt: skip


@pytest.mark.parametrize("glob", GLOBS)
def test_the_pattern_says_what_the_globs_say(glob):
    profile = Profile("a", equipment=(glob, "never"))
    wanted = [fnmatch.fnmatchcase(name, glob) for name in IDS]
    assert [profile.covers(name, None) for name in IDS] == wanted
    assert [re.fullmatch(profile.pattern, name) is not None for name in IDS] == wanted
    with duckdb.connect() as connection:
        found = [
            connection.execute("SELECT regexp_matches(?, ?)", [name, profile.pattern]).fetchone()[0]
            for name in IDS
        ]
    assert found == wanted


@given(
    st.text(alphabet="ab*?[]!^\\.$|(&~", max_size=8), st.text(alphabet="ab[]!^-\\.$|(", max_size=6)
)
def test_any_glob_and_its_pattern_agree(glob, name):
    pattern = Profile("a", equipment=(glob,)).pattern
    assert (re.fullmatch(pattern, name) is not None) is fnmatch.fnmatchcase(name, glob)


def test_rows_are_those_of_the_table_and_users_profiles_go_first(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\n')
    rows = profiles.rows(profiles.load([str(path)]))
    assert all(list(row) == EQUIPMENT_PROFILE.names for row in rows)
    priorities = [row["priority"] for row in rows]
    assert priorities == sorted(set(priorities))
    assert rows[0]["profile"] == "mine"
    required = [field.name for field in EQUIPMENT_PROFILE.fields if field.required]
    assert all(row[name] is not None for row in rows for name in required)
    assert {row["profile"]: row["equipment_pattern"] for row in rows}[
        "calce_cs2"
    ] == "^(?s:CS2_.*)$"
