"""python -m tests.endurance chaos|soak: long runs against a broker, and an engine, of their own."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.endurance import on_flink
from tests.endurance.failures import accounts, crashes
from tests.endurance.million import million
from tests.endurance.rig import Rig
from tests.endurance.scenarios import SCENARIOS
from tests.endurance.soak import soak
from tests.services.kafka import Broker, kafka_broker
from tests.services.processes import Unavailable


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance", description=__doc__)
    parser.add_argument("what", choices=("chaos", "soak"))
    parser.add_argument("--rate", type=float, default=2000, help="readings per second")
    parser.add_argument("--window", type=int, default=10, help="seconds")
    parser.add_argument("--minutes", type=float, default=30, help="of the soak")
    parser.add_argument(
        "--kills", type=int, default=20, help="of crashes, accounts and, on Flink, kills"
    )
    parser.add_argument("--readings", type=int, default=1_000_000, help="of the scenario million")
    parser.add_argument("--engine", choices=("local", "flink"), default="local", help="of chaos")
    parser.add_argument(
        "--only", action="append", choices=[*SCENARIOS, *on_flink.SCENARIOS], help="of chaos"
    )
    parser.add_argument("--times", type=int, default=1, help="each scenario of chaos so often")
    parser.add_argument("--seed", type=int, help="of the random moments; told if not given")
    parser.add_argument("--keep", type=Path, help="folder to leave everything in")
    return parser


def _on_cluster(scenario: Callable[[on_flink.Cluster], dict[str, int]], rig: Rig) -> dict[str, int]:
    with on_flink.Cluster(rig) as on:
        return scenario(on)


def _wanted(flags: argparse.Namespace) -> dict[str, Callable[[Rig], dict[str, int]]]:
    if flags.what == "soak":
        return {"soak": partial(soak, minutes=flags.minutes)}
    if flags.engine == "flink":
        mine = {**on_flink.SCENARIOS, "kills": partial(on_flink.kills, times=flags.kills)}
        return {name: partial(_on_cluster, mine[name]) for name in flags.only or mine}
    own = {
        "crashes": partial(crashes, kills=flags.kills),
        "accounts": partial(accounts, kills=flags.kills),
        "million": partial(million, readings=flags.readings),
    }
    return {
        name if turn == 1 else f"{name}.{turn}": own.get(name, SCENARIOS[name])
        for turn in range(1, flags.times + 1)
        for name in flags.only or SCENARIOS
    }


def _one(
    name: str,
    scenario: Callable[[Rig], dict[str, int]],
    broker: Broker,
    folder: Path,
    flags: argparse.Namespace,
) -> bool:
    began = time.monotonic()
    choose = random.Random(f"{flags.seed} {name}")
    with Rig(broker, folder / name, flags.rate, flags.window, choose=choose) as rig:
        try:
            wrong: dict[str, int] | str = scenario(rig)
        except TimeoutError as error:
            wrong = str(error)
        figures = ", ".join(f"{what} {number:,.4g}" for what, number in rig.figures.items())
    verdict = f"FAILED {wrong}" if wrong else "ok"
    print(f"{name}: {verdict}; {figures}; {time.monotonic() - began:.0f} s", flush=True)
    return not wrong


def _run(folder: Path, flags: argparse.Namespace) -> int:
    try:
        broker = kafka_broker(folder / "kafka")
    except Unavailable as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    with broker:
        print(f"broker: {broker.kind}; --seed={flags.seed}", flush=True)
        wanted = _wanted(flags)
        passed = [_one(name, call, broker, folder, flags) for name, call in wanted.items()]
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


def main() -> int:
    """Prints a line for every scenario; the exit status is 0 if nothing was lost or doubled."""
    flags = _parser().parse_args()
    flags.seed = flags.seed if flags.seed is not None else random.randrange(10**6)
    if flags.keep:
        return _run(flags.keep, flags)
    with tempfile.TemporaryDirectory() as folder:
        return _run(Path(folder), flags)


if __name__ == "__main__":
    sys.exit(main())
