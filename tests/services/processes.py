"""Starts a service's process and makes sure it goes when the tests go."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Self

# The kernel ends a child when the *thread* that started it ends, not the process. Tests may restart
# a broker from a thread of their own, so every process is started by this one, which stays.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="services")

# Asks the kernel for that (PR_SET_PDEATHSIG), then becomes the service. Not a `preexec_fn`, which
# would fork a process that has gRPC's threads.
_END_WITH_PARENT = (
    "import ctypes, os, signal, sys;"
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)

# The ports that this process has; its own locks would not keep it from taking one again.
_CLAIMED: set[int] = set()


class Unavailable(Exception):
    """A service can't be had on this machine; the message says why."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses, and that no other call is given from now on.

    The claim holds against every process of this user that runs tests, and ends with this one.

    It is below the range that systems take outgoing connections' ports from (32768 and up). From
    that range, a port would not stay free while its service is down for a restart: a client that
    keeps trying to reach the service can be given the very port it calls, and so reach itself.
    """
    claims = _claims()
    while True:
        port = random.randint(15_000, 32_000)
        if port in _CLAIMED:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            _CLAIMED.add(port)
            return port


@functools.cache
def _claims() -> IO[str]:
    """The file whose byte N is locked by the process that has port N; it stays open."""
    return (Path(tempfile.gettempdir()) / f"battery-ports-{os.getuid()}.lock").open("a")


def java(at_least: int) -> str:
    """The path of a Java runtime that works and is recent enough.

    Raises:
        Unavailable: there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if not found:
        raise Unavailable(f"no Java in {'JAVA_HOME' if home else 'PATH'}; install Java {at_least}")
    # Run, not only found: some systems put a `java` on the path that merely offers to install it.
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if not version or int(version[1]) < at_least:
        first = told.partition("\n")[0]
        raise Unavailable(f"{found} is not Java {at_least} or later: {first}")
    return found


def tail(log: Path, lines: int = 25) -> str:
    """The last lines of a log file."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


class Service:
    """A process that answers on a port, and can be stopped and started again.

    Attributes:
        name: what messages call it.
        log: the file that its output is appended to.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._argv = list(argv)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process's id, None when it isn't running."""
        return self._process.pid if self._process and self.running else None

    def start(self, port: int, answers: Callable[[], object], timeout: float = 120) -> None:
        """Starts the process and returns when it answers.

        Args:
            port: where it listens; `answers` is first asked when something does.
            answers: returns when the service does its work, raises while it does not yet.
            timeout: seconds until a service that doesn't answer is given up.

        Raises:
            Unavailable: it ended or didn't answer in time; with the end of its log.
        """
        if self.running:
            return
        began = time.monotonic()
        self._process = process = _SPAWNER.submit(self._spawn).result()
        atexit.register(self.stop, kill=True)
        trouble: Exception | None = None
        while time.monotonic() - began < timeout:
            if process.poll() is not None:
                raise self._failure(f"ended with status {process.returncode}")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                answers()
            except Exception as error:
                trouble = error
                time.sleep(0.05)
            else:
                return
        self.stop(kill=True)
        raise self._failure(f"did not answer within {timeout:.0f} s ({trouble!r})")

    def stop(self, kill: bool = False) -> None:
        """Ends the process, politely (SIGTERM) or like a crash (SIGKILL), and waits for it."""
        process = self._process
        # A forked child inherits the object, not the process.
        if process is None or os.getpid() != self._owner:
            return
        atexit.unregister(self.stop)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        launcher = []
        if sys.platform == "linux":
            launcher = [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT]
        with self.log.open("ab") as out:
            return subprocess.Popen(
                [*launcher, *self._argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def _failure(self, what: str) -> Unavailable:
        return Unavailable(f"{self.name} {what}. The end of {self.log}:\n{tail(self.log)}")


class Startable(ABC):
    """A service; as a context manager it is started, and gone at the end."""

    @abstractmethod
    def start(self) -> None:
        """Starts it, again or for the first time, and returns when it answers.

        Raises:
            Unavailable: it can't be had here, or doesn't answer; the message says why.
        """

    @abstractmethod
    def stop(self, kill: bool = False) -> None:
        """Stops it, with `kill` like a crash; nothing if it does not run."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(kill=True)


class Together(ABC):
    """Several services that belong together; as a context manager they are gone at the end."""

    @property
    @abstractmethod
    def parts(self) -> Sequence[Startable]:
        """In the order in which they start."""

    def __enter__(self) -> Self:
        try:
            for part in self.parts:
                part.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for part in reversed(self.parts):
            part.stop(kill=True)


class Server(Startable):
    """A service in a process of our own.

    Attributes:
        port: where it listens, the same after a restart.
    """

    def __init__(self, port: int | None = None) -> None:
        """Does not start it yet.

        Args:
            port: where it listens; a free one if not given.
        """
        self.port = port or free_port()
        self._service: Service | None = None

    @abstractmethod
    def _prepare(self) -> Service:
        """The process, with all laid out that its first start needs."""

    @abstractmethod
    def _answers(self) -> None:
        """Returns when it does its work, raises while it does not yet."""

    @property
    def pid(self) -> int | None:
        """Its process id, None while it is stopped."""
        return self._service.pid if self._service else None

    def start(self) -> None:
        """Starts it, again or for the first time, and returns when it answers.

        Raises:
            Unavailable: it can't be had here, or doesn't answer; the message says why.
        """
        self._service = self._service or self._prepare()
        self._service.start(self.port, self._answers)

    def stop(self, kill: bool = False) -> None:
        """Stops it by SIGTERM, with `kill` by SIGKILL."""
        if self._service:
            self._service.stop(kill)
