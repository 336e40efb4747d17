"""Opens files of this machine so that nobody's link or device leads elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

# Never waits for the other end of a pipe, never takes a terminal as the process's own.
_CAREFUL = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
# What the process's umask is taken from.
EVERYBODY = 0o666
OWNER = 0o600
# Where Linux says which file a handle is of.
_HANDLES = Path("/proc/self/fd")


class Outside(OSError):
    """The name leads out of the folder that may be read."""


class NoFile(OSError):
    """The name is a folder's, pipe's, socket's or device's."""


def is_outside(path: str, root: str | None) -> bool:
    """Whether a name is a link that leads out of the folder `root`; None: it may lead anywhere."""
    if root is None or not Path(path).is_symlink():
        return False
    return not _below(os.path.realpath(path), root)


def reading(path: str, root: str | None) -> BinaryIO:
    """A regular file, open for reading.

    What counts is where the open file lies, not where its name led when it was listed: links may
    be put in its place, or in its folders', until then.

    Args:
        path: the file.
        root: the folder in which it must lie once all links are followed; None: anywhere.

    Raises:
        Outside: it lies elsewhere.
        NoFile: it is no regular file.
        OSError: it can't be opened.
    """
    handle = os.open(path, os.O_RDONLY | _CAREFUL)
    try:
        _only_inside(handle, path, root)
        _only_regular(handle, path)
        return cast("BinaryIO", os.fdopen(handle, "rb"))
    except BaseException:
        os.close(handle)
        raise


def mode_of(file: BinaryIO) -> int:
    """The permissions of an open file, at least its owner's, for a copy of it."""
    return (os.fstat(file.fileno()).st_mode & EVERYBODY) | OWNER


def lock_file(path: str) -> BinaryIO:
    """A file to lock, made if there is none; what it holds stays.

    Raises:
        OSError: it can't be made, or is a link or no regular file.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | _CAREFUL, EVERYBODY)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path} is a link; remove it") from None
        raise
    try:
        _only_regular(handle, path)
    except BaseException:
        os.close(handle)
        raise
    return cast("BinaryIO", os.fdopen(handle, "r+b", buffering=0))


def fresh(path: Path, mode: int = EVERYBODY) -> BinaryIO:
    """A new file in place of whatever has that name, with the process's umask.

    Args:
        path: the file; a link of that name is removed, not followed.
        mode: the permissions it has at most.
    """
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    return cast("BinaryIO", os.fdopen(handle, "wb"))


def _only_inside(handle: int, path: str, root: str | None) -> None:
    if root is not None and not _below(_place(handle, path), root):
        raise Outside(errno.EXDEV, "the link leads out of the folder", path)


def _only_regular(handle: int, path: str) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise NoFile(errno.EINVAL, "no regular file", path)


def _below(place: str, root: str) -> bool:
    return Path(place).is_relative_to(os.path.realpath(root))


def _place(handle: int, path: str) -> str:
    """Where an open file lies, all links followed."""
    try:
        return str((_HANDLES / str(handle)).readlink()).removesuffix(" (deleted)")
    except OSError:
        pass
    # Elsewhere the name is followed again, and must lead to the same file.
    place = os.path.realpath(path)
    there, here = Path(place).lstat(), os.fstat(handle)
    same = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
    return place if same else os.devnull
