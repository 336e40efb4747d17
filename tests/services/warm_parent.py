"""Imports what commands need, and forks for each that it is asked to run; see `tests.services.warm`.

Needs the path of the socket to listen on, and the modules to import.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import itertools
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_DBT = "dbt.cli.main"
Work = Callable[[], object]


class Parent:
    """Answers clients until it is killed; has no thread, so that it can fork."""

    def __init__(self, path: str) -> None:
        """Listens on a socket of that path."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._listener, selectors.EVENT_READ)
        # Wakes the loop up where a command has ended.
        self._ended, self._wake = socket.socketpair()
        self._ended.setblocking(False)
        self._wake.setblocking(False)
        self._ready.register(self._ended, selectors.EVENT_READ)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._running: dict[int, socket.socket] = {}
        self._manifests = Manifests()

    def next_command(self) -> Work:
        """What a child, in which alone this returns, has to do."""
        while True:
            for key, _ in self._ready.select():
                if key.fileobj is self._listener:
                    if work := self._begin(self._listener.accept()[0]):
                        return work
                elif key.fileobj is self._ended:
                    self._ended.recv(4096)
                else:
                    self._client_is_gone(key.fileobj)
            self._tell_statuses()

    def _begin(self, client: socket.socket) -> Work | None:
        head, streams, _, _ = socket.recv_fds(client, 8, 3)
        data = b""
        wanted = int.from_bytes(head, "big")
        while len(data) < wanted and (part := client.recv(1 << 20)):
            data += part
        if not data or len(data) < wanted:  # it was killed
            for stream in streams:
                os.close(stream)
            client.close()
            return None
        asked = json.loads(data)
        manifest = self._manifests.of(asked) if asked["module"] == _DBT else None
        child = os.fork()
        if not child:
            self._forget()
            return lambda: run(asked, streams, manifest)
        for stream in streams:
            os.close(stream)
        self._running[child] = client
        self._ready.register(client, selectors.EVENT_READ)
        return None

    def _forget(self) -> None:
        """Leaves a child nothing of the parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._ready.close()
        for each in (self._listener, self._ended, self._wake, *self._running.values()):
            each.close()

    def _client_is_gone(self, client: Any) -> None:
        self._ready.unregister(client)
        for child, its in self._running.items():
            if its is client:
                os.kill(child, signal.SIGKILL)

    def _tell_statuses(self) -> None:
        while self._running:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            client = self._running.pop(child)
            if client.fileno() in self._ready.get_map():
                self._ready.unregister(client)
                with contextlib.suppress(OSError):  # it was killed
                    client.sendall(bytes([os.waitstatus_to_exitcode(status) & 0xFF]))
            client.close()


class Manifests:
    """dbt's project, parsed once for all builds on DuckDB files of one name.

    dbt itself would parse it again for every file, because the profile names it; of that the
    parsed project has nothing but the database's name, which is the file's.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], tuple[bytes, Any]] = {}

    def of(self, asked: dict[str, Any]) -> tuple[bytes, Any] | None:
        """The manifest, as dbt writes it and as an object; None if dbt has to parse it."""
        arguments, environment = asked["arguments"], asked["environment"]
        if arguments[:1] != ["build"] or environment.get("DBT_TARGET") != "duckdb":
            return None
        places = {"--project-dir", "--profiles-dir"}
        where = [two for two in itertools.pairwise(arguments) if two[0] in places]
        key = (
            *(word for two in where for word in two),
            Path(environment["DUCKDB_PATH"]).stem,
            *(environment.get(f"PIPELINE_{name}", "") for name in ("DATABASE", "SCHEMA")),
        )
        if key not in self._known and (made := _parsed(key[:-3], asked)):
            self._known[key] = made
        return self._known.get(key)


def _parsed(places: Sequence[str], asked: dict[str, Any]) -> tuple[bytes, Any] | None:
    """The project, parsed in a child; None if that fails, which the build will tell itself."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        child = os.fork()
        if not child:
            try:
                _enter(asked)
                os.environ["DBT_TARGET_PATH"] = os.environ["DBT_LOG_PATH"] = folder
                with (target / "said").open("w") as said:
                    os.dup2(said.fileno(), 1)
                    os.dup2(said.fileno(), 2)
                from dbt.cli.main import dbtRunner

                os._exit(not dbtRunner().invoke(["parse", *places]).success)
            finally:
                os._exit(1)
        if os.waitpid(child, 0)[1]:
            return None
        from dbt.contracts.graph.manifest import Manifest
        from dbt.parser.manifest import extended_mashumuro_decoder

        kept = (target / "partial_parse.msgpack").read_bytes()
        manifest = Manifest.from_msgpack(kept, decoder=extended_mashumuro_decoder)
        manifest.rebuild_ref_lookup()
        manifest.rebuild_disabled_lookup()
        manifest.build_flat_graph()
        return (target / "manifest.json").read_bytes(), manifest


def _enter(asked: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])


def run(asked: dict[str, Any], streams: Sequence[int], manifest: tuple[bytes, Any] | None) -> None:
    """Is the command from now on."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, buffering, closefd=False, encoding="utf-8", errors=errors)  # noqa: SIM115
        for number, mode, buffering, errors in (
            (0, "r", -1, "strict"), (1, "w", -1, "strict"), (2, "w", 1, "backslashreplace"),
        )
    )  # fmt: skip
    _enter(asked)
    atexit.register(gc.unfreeze)  # DuckDB's module complains of what is not collected at the end
    sys.argv = [asked["module"], *asked["arguments"]]
    if manifest:
        from dbt.cli.main import cli

        target = Path(os.environ["DBT_TARGET_PATH"])
        target.mkdir(parents=True, exist_ok=True)
        (target / "manifest.json").write_bytes(manifest[0])
        cli.main(asked["arguments"], prog_name="dbt", obj={"manifest": manifest[1]})
    else:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)


def main(path: str, modules: Sequence[str]) -> None:
    """Listens at `path`, with these modules imported."""
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    gc.enable()
    near = f"{path}.near"
    parent = Parent(near)
    shutil.move(near, path)  # there once it listens
    parent.next_command()()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
