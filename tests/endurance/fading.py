"""Cells fade while a job predicts: it is killed, and its model is swapped meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import onnx

from pipeline.prediction.model_file import Model, write
from pipeline.prediction.remaining_life import SHIPPED
from tests.endurance.processes import Job, Process
from tests.endurance.rig import Rig
from tests.running import sql

_FLEET = "simulator:?equipment=6&machines=0&seed=8&cycles={cycles}&interval=60&fade=8"
# Of both, whatever the order in which readings came.
_CYCLES = (
    "equipment_id, test_id, cycle_index, cycle_restarts, cycle_number, readings, charge_ah, discharge_ah, "
    "charge_wh, discharge_wh, v_min_v, v_max_v, is_full, is_whole, throughput_ah"
)
_SAID = "equipment_id, cycle_number, cycle_id, round(soh, 9), round(soh_low, 9), round(soh_high, 9)"


def fading(rig: Rig, kills: int = 5, cycles: int = 100) -> dict[str, int]:
    """No prediction is missing or twice, per cell, cycle and model; figures are a bounded run's."""
    fleet = _FLEET.format(cycles=cycles)
    model = rig.folder / "model.onnx"
    shutil.copy(SHIPPED, model)
    parts = kills + 2
    job = rig.job(f"--model={model}")
    for part in range(parts):
        if part == parts // 2:
            rig.until(lambda: len(_versions(job)) > 0, 180, "nothing is predicted")
            _swap(model)
        _publish(rig, fleet, part, 6 * cycles * 200 // parts if part < parts - 1 else None)
        rig.until(job.has_read, 180, "the job reads nothing")
        if part < kills:
            rig.wait(rig.choose.uniform(2, 12))
            job.kill()
            job.start()
    rig.read_to(rig.ends(), 600)
    wrong = rig.finish(job)
    twice = "SELECT count(*) - count(DISTINCT (cycle_id, model_version)) FROM predictions"
    ((doubled,),) = sql(job.warehouse, twice)
    missing = (
        "SELECT count(*) FROM (SELECT DISTINCT cycle_id FROM cycles_live WHERE is_ended) "
        "ANTI JOIN predictions USING (cycle_id)"
    )
    ((lost,),) = sql(job.warehouse, missing)
    ((made,),) = sql(job.warehouse, "SELECT count(*) FROM predictions")
    rig.figures |= {"predictions": made, "models": len(_versions(job)), "kills": kills}
    found = {"predicted_twice": doubled, "not_predicted": lost, "no_predictions": int(not made)}
    found["models_missing"] = 2 - len(_versions(job))
    found |= _differences(rig, job, fleet)
    return wrong | {name: number for name, number in found.items() if number}


def _publish(rig: Rig, fleet: str, part: int, readings: int | None) -> None:
    """Sends the next readings, in order of time; None: all that are left."""
    to = f"kafka://{rig.broker.bootstrap}/{rig.topic}"
    with Process(f"publish-{part}", rig.folder, "pipeline.publish", f"--source={fleet}", f"--to={to}",
                 f"--resume={rig.folder / 'sent'}", "--rate=20000",
                 "--order=time", "--no_progress",
                 *([] if readings is None else [f"--limit={readings}"])) as publisher:  # fmt: skip
        status = publisher.wait(300)
    if status:
        raise RuntimeError(f"the publisher ended with {status}, see {publisher.err}")


def _swap(path: Path) -> None:
    """Puts another version of the same model in its place."""
    card = {**Model.load(path).card, "about": "the same, as another version"}
    new = path.with_suffix(".new")
    write(new, onnx.load(path), card)
    new.replace(path)


def _versions(job: Job) -> list[str]:
    paths = [*(job.lake / "predictions").rglob("*.parquet")]
    if not paths:
        return []
    names = ", ".join(f"'{path}'" for path in paths)
    with duckdb.connect() as database:
        rows = database.execute(
            f"SELECT DISTINCT model_version FROM read_parquet([{names}])"
        ).fetchall()
    return [version for (version,) in rows]


def _differences(rig: Rig, job: Job, fleet: str) -> dict[str, int]:
    """Rows of ended cycles, and states of health, that only the live or only a bounded run has."""
    warehouse = rig.folder / "bounded.duckdb"
    with Process("bounded", rig.folder, "pipeline", f"--source={fleet}", "--lake=none",
                 f"--warehouse=duckdb:{warehouse}", "--model=default", "--no_progress") as bounded:  # fmt: skip
        status = bounded.wait(600)
    found = {"bounded_exit_status": status}
    with duckdb.connect() as database:
        database.execute(f"ATTACH '{job.warehouse}' AS live (READ_ONLY)")
        database.execute(f"ATTACH '{warehouse}' AS bounded (READ_ONLY)")
        for one, other in (("live", "bounded"), ("bounded", "live")):
            for name, columns, where in (
                ("cycles_live", _CYCLES, "WHERE is_ended"),
                ("predictions", _SAID, ""),
            ):
                query = (
                    f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM {one}.{name} {where} "
                    f"EXCEPT SELECT {columns} FROM {other}.{name} {where})"
                )
                found[f"{name}_only_{one}"] = database.execute(query).fetchall()[0][0]
    return found
