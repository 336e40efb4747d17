"""The job and its producers as processes of their own, to be killed, drained and asked."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.services.processes import _END_WITH_PARENT

ROOT = Path(__file__).parents[2]


class Process:
    """A Python module that runs as a process; as a context manager it is gone at the end.

    Args:
        name: of its output files in `folder`, `NAME.out` and `NAME.err`; both are appended to.
        folder: where they lie.
        command: `-m` module and arguments.
    """

    def __init__(self, name: str, folder: Path, *command: str) -> None:
        self.name = name
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        # So that nothing goes on sending, or reading, where the harness itself is killed.
        launcher = [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT]
        linux = sys.platform == "linux"
        self._command = [*(launcher if linux else ()), sys.executable, "-m", *command]
        self._process: subprocess.Popen[bytes] | None = None
        self._begins = 0

    def start(self) -> Self:
        """Starts it, again or for the first time."""
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self._begins = out.tell()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=ROOT
            )
        return self

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def told(self) -> str:
        """What it has printed since it was started last."""
        return self.out.read_bytes()[self._begins :].decode()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL; nothing of the process can see it coming."""
        self.process.kill()
        self.process.wait()

    def stop(self, patience_s: float = 120) -> int:
        """SIGTERM; returns the exit status.

        Raises:
            TimeoutError: it went on for `patience_s`, and was killed.
        """
        self.process.send_signal(signal.SIGTERM)
        return self.wait(patience_s)

    def wait(self, patience_s: float = 120) -> int:
        """Waits for its end; see `stop`."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(
                f"{self.name} did not end within {patience_s:.0f} s; see {self.err}"
            ) from None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.runs:
            self.kill()


class Producer(Process):
    """A steady producer; see `tests.endurance.producer` for the flags."""

    def __init__(self, name: str, folder: Path, bootstrap: str, topic: str, *flags: str) -> None:
        self.log = folder / f"{name}.sent"
        super().__init__(
            name, folder, "tests.endurance.producer", f"--bootstrap={bootstrap}",
            f"--topic={topic}", f"--log={self.log}", *flags,
        )  # fmt: skip

    @property
    def sent(self) -> int:
        """How many it sent, once it has ended."""
        return int(json.loads(self.out.read_text().splitlines()[-1])["sent"])


class Job(Process):
    """The live job on a topic, with lake and warehouse in `folder`.

    Args:
        name: see `Process`.
        folder: see `Process`.
        source: what `--source` is to be.
        flags: further flags.
    """

    def __init__(self, name: str, folder: Path, source: str, *flags: str) -> None:
        self.lake, self.warehouse = folder / "lake", folder / "warehouse.duckdb"
        super().__init__(
            name, folder, "pipeline", f"--source={source}", f"--lake={self.lake}",
            f"--warehouse=duckdb:{self.warehouse}", "--no_progress", "--account_every=1", *flags,
        )  # fmt: skip

    def has_read(self) -> bool:
        """Whether it has read anything since it was started last."""
        return re.search(r"^so far: read [1-9]", self.told, re.MULTILINE) is not None

    def account(self) -> dict[str, int]:
        """The figures of the last account line, by name; empty if there is none."""
        lines = [line for line in self.told.splitlines() if line.startswith("read ")]
        found = re.findall(r"(read|written|duplicates|dead letters) ([\d,]+)", " ".join(lines[-1:]))
        return {name.replace(" ", "_"): int(figure.replace(",", "")) for name, figure in found}

    def caught_up(self) -> bool:
        """Whether its last line says that nothing is left to read."""
        lines = [line for line in self.told.splitlines() if line.startswith("so far: ")]
        return ", lag 0," in "".join(lines[-1:])

    def rss_mb(self) -> float:
        """Memory in use, MiB; 0 once it has ended."""
        with contextlib.suppress(OSError, TypeError):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
        return 0.0
