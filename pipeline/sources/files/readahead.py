"""Reads a group of files, the next ones in the background while one is being worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.sources.files.splits import Group, Members, Split
from pipeline.sources.formats import packed, reader
from pipeline.sources.formats.content import Content, Output, Settings
from pipeline.sources.formats.detect import extension
from pipeline.sources.formats.meter import Refused
from transforms.budget import MIB

# How many files are loaded ahead. Two keep a second core busy while the first one works
# downstream (loading a workbook lets go of Python's lock for most of the time).
LOOK_AHEAD = 2
# Larger files are streamed instead: what is read ahead is held in memory as a whole.
AHEAD_BYTES = reader.HELD_BYTES
_PACKED_AHEAD_BYTES = MIB
# Tiny files go together, because handing one to a thread costs more than reading it.
_TINY_BYTES = 64 * 1024
_TINY_TOGETHER = 64
# So many of them are fetched at the same time from a bucket.
_FETCHES = 8

_Job = list[Content]
# What a file gave, after its name.
From = tuple[str, Output]


def read_group(group: Group, settings: Settings) -> Iterator[From]:
    """Everything the group's files hold, in their order; each with its file's name."""
    pending: deque[Future[list[From]]] = deque()
    with ThreadPoolExecutor(LOOK_AHEAD, thread_name_prefix="read-ahead") as pool:
        try:
            for job in _jobs(group, settings):
                if isinstance(job, list) and _fits(job):
                    pending.append(pool.submit(_load, job, settings))
                    while len(pending) > LOOK_AHEAD:
                        yield from pending.popleft().result()
                    continue
                while pending:
                    yield from pending.popleft().result()
                if isinstance(job, list):
                    for content in job:
                        yield from _named(content, settings)
                elif job is not None:
                    assert not isinstance(job.span, Members)
                    yield from _named(job.content(settings), settings, job.span)
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _named(content: Content, settings: Settings, span: reader.Span | None = None) -> Iterator[From]:
    return ((content.source_file, output) for output in reader.read(content, settings, span))


def _load(job: _Job, settings: Settings) -> list[From]:
    return [output for content in _fetched(job) for output in _named(content, settings)]


def _fetched(job: _Job) -> _Job:
    """Files with their bytes where each lies in a bucket, since every one takes a round trip."""
    if len(job) == 1 or any(content.depth or "://" not in content.path for content in job):
        return job
    with ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch") as pool:
        return list(pool.map(reader.held, job))


def _fits(job: _Job) -> bool:
    return all(
        content.size <= (_PACKED_AHEAD_BYTES if extension(content.path) in _PACKED else AHEAD_BYTES)
        for content in job
    )


_PACKED = ("gz", "bz2", "xz", "zip")


def _jobs(group: Group, settings: Settings) -> Iterator[_Job | Split | None]:
    """Files to be read whole, one or some tiny ones together; or a part of one.

    None asks to finish what is pending before going on, since an archive is closed then.
    """
    tiny: _Job = []
    for split in group:
        if split.span is None:
            yield from _gather(tiny, split.content(settings))
            continue
        if isinstance(split.span, Members):
            yield from _member_jobs(split, split.span, settings)
        else:
            yield split
    if tiny:
        yield tiny


def _gather(tiny: _Job, content: Content) -> Iterator[_Job]:
    """Adds a tiny file to those gathered so far, and gives out what is ready to be read."""
    small = content.size <= _TINY_BYTES
    if small:
        tiny.append(content)
    if tiny and (not small or len(tiny) >= _TINY_TOGETHER):
        yield tiny.copy()
        tiny.clear()
    if not small:
        yield [content]


def _member_jobs(split: Split, span: Members, settings: Settings) -> Iterator[_Job | None]:
    content = split.content(settings)
    try:
        with packed.opened_zip(content) as archive:
            tiny: _Job = []
            for member in packed.members(archive, content, settings, span.start, span.end):
                yield from _gather(tiny, member)
            if tiny:
                yield tiny
            yield None
    except Refused:  # it was readable when it was planned: let the reader say what is wrong now
        yield [split.content(settings)]
        return
    content.share.finish()
