"""python -m pipeline.replay: corrects dead letters and sends them to the job's topic again."""

from __future__ import annotations

import datetime as dt
import getpass
import logging
import socket
import sys
from collections.abc import Sequence

import orjson
import pyarrow as pa

from pipeline import failures
from pipeline.connect import topics
from pipeline.connect.kafka import DELIVERY_S
from pipeline.connect.topics import Topic, Undelivered, topic_at
from pipeline.errors import JobFailed
from pipeline.replaying import corrections, letters
from pipeline.replaying.corrections import Judged
from pipeline.replaying.options import Replay, replay
from pipeline.replaying.sent import Sent, digest
from pipeline.shown import say

_FLAG = "--to"
# Acknowledged, and remembered, together.
_AT_ONCE = 1_000
_KINDS = 5
_SHOWN = 3
_LENGTH = 160


def messages(chosen: pa.Table, payloads: Sequence[bytes], at: str, by: str) -> pa.Table:
    """The corrected letters as messages (schema `topics.MESSAGES`).

    Key and attributes stay the message's own; the attributes `dead_letter_id`, `replayed_at` and
    `replayed_by` say from which letter, when and by whom it was sent.
    """
    attributes = []
    for own, letter in zip(
        chosen.column("attributes").to_pylist(),
        chosen.column("dead_letter_id").to_pylist(),
        strict=True,
    ):
        added = {"dead_letter_id": letter, "replayed_at": at, "replayed_by": by}
        attributes.append(orjson.dumps({**topics.json_object(own), **added}).decode())
    columns = {
        "payload": pa.array(payloads, pa.binary()),
        "key": pa.array(corrections.keys(chosen), pa.binary()),
        "attributes": pa.array(attributes, pa.string()),
        "timestamp_ms": pa.nulls(len(payloads), pa.int64()),
    }
    return pa.table(columns, schema=topics.MESSAGES)


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return socket.gethostname()


def _replay(what: Replay) -> int:
    topic = topic_at(what.to, _FLAG)
    sent = Sent(what.remember)
    found = letters.find(what)
    if not found.letters.num_rows:
        _say_none(what, found)
        return 0
    judged = corrections.judged(
        found.letters, corrections.corrected(found.letters, what.changes), what.job
    )
    known = sent.load()
    ids = judged.letters.column("dead_letter_id").to_pylist()
    digests = [digest(what.to, *pair) for pair in zip(ids, judged.payloads, strict=True)]
    new = [place for place, each in enumerate(digests) if each not in known]
    say(
        f"{found.letters.num_rows:,} of {found.looked_at:,} dead letters meet --where: {len(new):,} "
        f"{'to send' if what.send else 'would be sent'}, {len(digests) - len(new):,} sent before, "
        f"{judged.unchanged:,} not changed by --set, {judged.wrong.total():,} still wrong"
        + (f", {judged.not_messages:,} not messages" if judged.not_messages else "")
    )
    _say_wrong(judged)
    _say_some(judged, new)
    if not what.send:
        say("nothing was sent; --send sends them")
        return 0
    if not new:
        say("nothing was sent: there is nothing to send")
        return 0
    topic.check()
    sent.prepare()
    try:
        return _send(what, topic, judged, new, digests, sent)
    finally:
        topic.close()


def _say_none(what: Replay, found: letters.Found) -> None:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.kinds.most_common(_KINDS))
    there = f"there are {found.looked_at:,} ({kinds})" if found.looked_at else "there are none"
    say(f"{what.origin}: no dead letter meets --where={what.where}; {there}; nothing was sent")


def _say_wrong(judged: Judged) -> None:
    for (kind, field), count in judged.wrong.most_common(_KINDS):
        named = f"{kind} of {field}" if field else kind
        say(f"  still wrong: {count:,} by {named}, such as {judged.example[kind, field]}")


def _say_some(judged: Judged, new: Sequence[int]) -> None:
    for place in new[:_SHOWN]:
        before = judged.letters.column("payload")[place].as_py() or b""
        position = judged.letters.column("position")[place].as_py()
        say(f"  {position}: {_short(before)} → {_short(judged.payloads[place])}")
    if len(new) > _SHOWN:
        say(f"  … and {len(new) - _SHOWN:,} more")


def _short(payload: bytes) -> str:
    text = payload.decode("utf-8", "backslashreplace")
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"


def _send(
    what: Replay,
    topic: Topic,
    judged: Judged,
    new: Sequence[int],
    digests: Sequence[str],
    sent: Sent,
) -> int:
    at, by = dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), _who()
    done = too_large = 0
    try:
        for start in range(0, len(new), _AT_ONCE):
            places = new[start : start + _AT_ONCE]
            chosen = judged.letters.take(pa.array(places, pa.int64()))
            payloads = [judged.payloads[place] for place in places]
            receipt = topic.send(messages(chosen, payloads, at, by))
            if not receipt.wait(DELIVERY_S + 60):
                raise Undelivered(f"no acknowledgement within {DELIVERY_S} s")  # noqa: TRY301
            refused = set(receipt.too_large)
            taken = [place for row, place in enumerate(places) if row not in refused]
            sent.add((digests[place] for place in taken), at, by)
            done, too_large = done + len(taken), too_large + len(refused)
    except Undelivered as error:
        raise JobFailed(
            f"{_FLAG}={topic}: the broker took {done:,} of {len(new):,} and no more ({error}); the "
            "same command sends the others"
        ) from error
    say(f"sent {done:,} to {topic}; they are remembered in {what.remember}")
    if too_large:
        say(f"error: {too_large:,} are larger than the topic takes and were left out", error=True)
    return 1 if too_large else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    0: sent, shown, or there was nothing to send; 1: the broker did not take everything; 2: a flag
    or resource the user can mend; 130: interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    failures.begin(argv)
    # During an outage the client logs every try; this command reports what matters.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        return _replay(replay(argv))
    except KeyboardInterrupt:
        say("interrupted; the same command sends what was not acknowledged", error=True)
        return 130
    except Exception as error:  # noqa: BLE001 - each ends in one line
        return failures.ended(error, argv)


if __name__ == "__main__":
    sys.exit(main())
