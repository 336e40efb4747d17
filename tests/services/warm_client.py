"""Stands for a command that a warm parent runs; see `tests.services.warm`. Needs the socket's path.

It passes on its arguments, environment, folder and standard streams, and ends with the command's
exit status. If it is killed, so is the command.
"""

import json
import os
import socket
import sys
import time

_STARTED_S = 120.0  # for the parent's own imports, on a busy machine


def main(path: str, module: str, arguments: list[str]) -> int:
    """Has the parent at `path` run `python -m module`; returns the exit status."""
    with socket.socket(socket.AF_UNIX) as parent:
        until = time.monotonic() + _STARTED_S
        while True:
            try:
                parent.connect(path)
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        asked = {"module": module, "arguments": arguments, "folder": os.getcwd()}  # noqa: PTH109
        data = json.dumps({**asked, "environment": dict(os.environ)}).encode()
        socket.send_fds(parent, [len(data).to_bytes(8, "big")], [0, 1, 2])
        parent.sendall(data)
        answer = parent.recv(1)
    return answer[0] if answer else 1  # the parent is gone


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
