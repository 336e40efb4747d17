"""The errors that are shown in one line: what went wrong, where, and what to do."""

from __future__ import annotations

import errno

_AGAIN = "then run the job again"
# Where nothing better is known: once the job reads, and of all that fails before.
AGAIN = "run the job again: it goes on where it was"
CHECK = "check the flags (--help lists them) and what they name"
# What to do about an error of the system.
FIXES = {
    errno.ENOSPC: f"free disk space, {_AGAIN}",
    errno.EDQUOT: f"free disk space or raise the quota, {_AGAIN}",
    errno.EFBIG: f"raise the limit on the size of a file (ulimit -f), {_AGAIN}",
    errno.EACCES: f"give this account the right to write there, {_AGAIN}",
    errno.EPERM: f"give this account the right to write there, {_AGAIN}",
    errno.EROFS: f"make the file system writable, {_AGAIN}",
    errno.ENOENT: f"put the folder back, {_AGAIN}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {_AGAIN}",
}


class ConfigError(ValueError):
    """A flag, URI or resource is wrong; raised before the first message is read."""


class JobFailed(RuntimeError):
    """The job can't continue; the message is the one line that is shown."""


class SourceFailed(JobFailed):
    """Reading a live source came to an end that waiting does not mend; the message says why."""


class WarehouseFailed(JobFailed):
    """A warehouse can't be written, and waiting does not mend it; the message says the fix."""


class LakeFailed(JobFailed):
    """The lake can't be written; the message names the file and the fix."""


class CheckpointFailed(JobFailed):
    """The checkpoint can't be written; the message names the file and the fix."""


class EngineFailed(JobFailed):
    """The engine has failed, or is gone; the message says how to go on."""


class SpillFailed(JobFailed):
    """What the job keeps in TMPDIR can't be written or read; the message names the fix."""


def shown_names() -> list[str]:
    """The names of all errors whose message is one line for a person, longest first.

    A runner hands on the text of an error alone: by these names it is found there again.
    """
    kinds: list[type] = [ConfigError, JobFailed]
    for kind in kinds:
        kinds += [each for each in kind.__subclasses__() if each not in kinds]
    return sorted({kind.__name__ for kind in kinds}, key=lambda name: (-len(name), name))


def not_written(flag: str, path: object, error: OSError) -> str:
    """The one line of a file that can't be written.

    Args:
        flag: what named its place, such as `--lake=data/lake`.
        path: the file.
        error: what the system said.
    """
    return not_done(flag, path, "written", error)


def not_done(flag: str, path: object, verb: str, error: OSError) -> str:
    """The same of a file that can't be written, read or whatever `verb` says."""
    fix = FIXES.get(error.errno or 0, f"check the disk, {_AGAIN}")
    return f"{flag}: {path} can't be {verb} ({error.strerror or error}); {fix}"
