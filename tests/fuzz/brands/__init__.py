"""The layouts that exports are written in, a module per brand."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.brands import (
    arbin,
    arbin_xlsx,
    basytec,
    batteryarchive,
    bdf,
    biologic,
    digatron,
    generic,
    landt,
    maccor,
    nasa,
    neware_flat,
    neware_layered,
    novonix,
    pec,
    pybamm,
)
from tests.fuzz.draw import Draw
from tests.fuzz.truth import Export

BRANDS: dict[str, Callable[[Draw, str], Export]] = {
    "arbin": arbin.export,
    "arbin_xlsx": arbin_xlsx.export,
    "basytec": basytec.export,
    "batteryarchive": batteryarchive.export,
    "bdf": bdf.export,
    "biologic": biologic.export,
    "digatron": digatron.export,
    "generic": generic.export,
    "landt": landt.export,
    "maccor": maccor.export,
    "nasa": nasa.export,
    "neware_chinese": neware_flat.export_chinese,
    "neware_flat": neware_flat.export,
    "neware_layered": neware_layered.export,
    "novonix": novonix.export,
    "pec": pec.export,
    "pybamm": pybamm.export,
}
