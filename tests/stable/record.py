"""python -m tests.stable.record: records the graph and the state of the release in setup.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.stable import releases
from tests.stable.fingerprint import fingerprint
from tests.stable.graphs import CONFIGURATIONS, built


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if there is a record that differs."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.stable.record",
        description="Records what an update of a running job depends on, for the version in setup.py.",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="record a release anew that was recorded before: only if no job of it runs anywhere",
    )
    replace = parser.parse_args(argv).replace
    release = releases.current()
    there = {} if replace else release.graphs()
    if there and (found := releases.to_know(release)):
        print(releases.told(release, found), file=sys.stderr)
        print("If no job of it runs anywhere, give --replace.", file=sys.stderr)
        return 1
    if replace:
        release.forget()
    for name, configuration in CONFIGURATIONS.items():
        if name not in there:
            release.write(name, fingerprint(built(*configuration)))
            print(f"recorded {release.version}: {name}")
    if there:
        return 0
    release.write("kept", releases.keep())
    updates = {
        earlier.version: {
            name: [each.as_json() for each in given]
            for name, given in releases.to_know(earlier).items()
        }
        for earlier in releases.recorded()
        if earlier != release
    }
    release.write("updates", updates)
    print(f"recorded {release.version}: its state, and updates from {len(updates)} releases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
