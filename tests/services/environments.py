"""Makes Python environments for programs whose dependencies are not the project's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.services.processes import Unavailable


class Environment:
    """A Python environment in the making.

    Attributes:
        python: its interpreter.
    """

    def __init__(self, folder: Path, purpose: str, timeout: float) -> None:
        """Makes it, with pip alone.

        Args:
            folder: where; empty.
            purpose: the program that it is for; messages name it.
            timeout: seconds that each step may take, this one and those to come.

        Raises:
            Unavailable: it could not be made.
        """
        self.python = folder / "bin" / "python"
        self._purpose = purpose
        self._timeout = timeout
        self._do(sys.executable, "-m", "venv", str(folder))

    def install(self, *arguments: str) -> None:
        """`pip install`, with these packages and options.

        Raises:
            Unavailable: pip could not get them.
        """
        self.run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)

    def run(self, *arguments: str, check: bool = True) -> None:
        """The interpreter with these arguments.

        Raises:
            Unavailable: it took too long, or failed and `check` is set.
        """
        self._do(str(self.python), *arguments, check=check)

    def _do(self, *argv: str, check: bool = True) -> None:
        try:
            done = subprocess.run(
                argv, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
                timeout=self._timeout, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            late = f"{' '.join(argv[1:4])} was not done within {self._timeout:.0f} s"
            raise Unavailable(f"no {self._purpose}: {late}") from None
        if check and done.returncode:
            said = (done.stdout + done.stderr).strip()[-300:]
            raise Unavailable(f"no {self._purpose}: {' '.join(argv[1:4])} failed: {said}")
