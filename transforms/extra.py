"""Keeps what the reading has no field for: a JSON object per row, as the source spelled it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from transforms import convert
from transforms.convert import Values


def of_messages(
    columns: dict[str, Values],
    unknown: list[str],
    doubled: list[tuple[str, list[str]]],
    others: Sequence[dict[str, Any]] | None = None,
) -> pa.Array | None:
    """The fields without a column as a JSON object per message; null where there are none.

    `doubled` pairs another name of a field with the better ones: where one of these has a value
    too, the other one's is kept here. `others` are each message's fields that are in no column.
    """
    if not unknown and not doubled and not others:
        return None
    names = sorted({*unknown, *(name for name, _ in doubled)})
    if not others and (spelled := _of_plain(columns, names, dict(doubled))) is not None:
        return spelled
    needed = {*names, *(other for _, others in doubled for other in others)}
    columns = {name: convert.items(columns[name]) for name in needed}
    better = {name: [columns[other] for other in others] for name, others in doubled}
    out: list[str | None] = []
    rows = (
        zip(*[columns[name] for name in names], strict=True)
        if names
        else repeat((), len(others or ()))
    )
    for row, values in enumerate(rows):
        kept = {
            name: value
            for name, value in zip(names, values, strict=True)
            if value is not None
            and (name not in better or any(other[row] is not None for other in better[name]))
        }
        if others is not None:
            kept |= {name: value for name, value in others[row].items() if value is not None}
        out.append(dump(kept) if kept else None)
    return pa.array(out, pa.string())


def _of_plain(
    columns: dict[str, Values], names: list[str], better: dict[str, list[str]]
) -> pa.Array | None:
    """The same column by column, for columns of a plain type each; None where some are of none."""
    pieces: list[pa.Array] = []
    for name in names:
        text = _spelled(columns[name])
        if text is None:
            return None
        if name in better:
            taken = [_known(columns[other]) for other in better[name]]
            text = pc.if_else(np.logical_or.reduce(taken), text, pa.scalar(None, pa.string()))
        if text.null_count < len(text):
            pair = pc.binary_join_element_wise(f",{orjson.dumps(name).decode()}:", text, "")
            pieces.append(pair.fill_null(""))
    if not pieces:
        return pa.nulls(len(columns[names[0]]), pa.string())
    joined = pc.binary_join_element_wise(*pieces, "") if len(pieces) > 1 else pieces[0]
    # The first comma makes place for the brace.
    whole = pc.binary_join_element_wise("{", pc.binary_replace_slice(joined, 0, 1, ""), "}", "")
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), whole)


def _known(values: Values) -> convert.Mask:
    if isinstance(values, pa.Array):
        return np.asarray(values.is_valid())
    return np.array([value is not None for value in values])


def _spelled(values: Values) -> pa.Array | None:
    """A column's values as `dump` spells them; null where there is none.

    None where they are of another type than numbers, texts or truth values, or it does not show.
    """
    if not isinstance(values, pa.Array):
        if not set(map(type, values)) <= {int, float, type(None)}:
            return None
        try:
            found = orjson.dumps(values)
        except TypeError:
            return None  # a number beyond 64 bits
        texts = pa.array(found[1:-1].split(b","), pa.binary()).cast(pa.string())
        return pc.if_else(pc.equal(texts, "null"), pa.scalar(None, pa.string()), texts)
    if pa.types.is_null(values.type):
        return values.cast(pa.string())
    if pa.types.is_boolean(values.type):
        return pc.if_else(values, "true", "false")
    if pa.types.is_integer(values.type):
        return values.cast(pa.string())
    if pa.types.is_float64(values.type):
        numbers = values.fill_null(0.0).to_numpy(zero_copy_only=False)
        found = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
        texts = pa.array(found[1:-1].split(b","), pa.binary()).cast(pa.string())
        return pc.if_else(values.is_valid(), texts, pa.scalar(None, pa.string()))
    if pa.types.is_string(values.type):
        encoded = values.dictionary_encode()
        words = [dump(word) for word in encoded.dictionary.to_pylist()]
        return pa.array(words, pa.string()).take(encoded.indices)
    return None


def unnested(extra: pa.Array) -> pa.Array:
    """A replayed reading's own `extra`, a JSON object as text, takes its old place again."""
    encoded = extra.dictionary_encode()
    return pa.array([_unnest(text) for text in encoded.dictionary.to_pylist()], pa.string()).take(
        encoded.indices
    )


def _unnest(text: str) -> str:
    try:
        now = orjson.loads(text)
        inner = now.get("extra")
        before = orjson.loads(inner) if isinstance(inner, str) else None
    except orjson.JSONDecodeError:
        return text
    if not isinstance(before, dict):
        return text
    del now["extra"]
    # As it was, to the letter: the identity of a reading may depend on it.
    return dump({**before, **now}) if now else inner


def dump(value: Any) -> str:
    """A value as JSON text, whatever it is."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str).decode()
    except TypeError:  # a number beyond 64 bits, or nested deeper than orjson goes
        pass
    try:
        return json.dumps(
            value, sort_keys=True, default=str, ensure_ascii=False, separators=(",", ":")
        )
    except RecursionError:
        return '{"error":"nested too deeply to be kept"}'


def of_table(
    columns: dict[str, Values], unknown: list[str], doubled: list[tuple[str, list[str]]]
) -> pa.Array | None:
    """The same for a table, column by column; a row's nulls are left out."""
    better = dict(doubled)
    pieces: list[pa.Array] = []
    for name in sorted([*unknown, *better]):
        text = _json_texts(columns[name])
        if text is None:
            continue
        if name in better:
            others = [convert.as_array(columns[other]) for other in better[name]]
            taken = [np.asarray(other.is_valid()) for other in others if other is not None]
            text = pc.if_else(
                pa.array(np.logical_or.reduce(taken)), text, pa.scalar(None, pa.string())
            )
        pair = pc.binary_join_element_wise(f",{orjson.dumps(name).decode()}:", text, "")
        pieces.append(pc.coalesce(pair, ""))
    if not pieces:
        return None
    joined = pc.binary_join_element_wise(*pieces, "")
    body = pc.utf8_slice_codeunits(joined, 1)
    whole = pc.binary_join_element_wise("{", body, "}", "")
    return pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), whole)


def _json_texts(values: Values) -> pa.Array | None:
    """A column's values as JSON texts; null where there is none."""
    array = convert.as_array(values)
    if array is None or pa.types.is_null(array.type) or array.null_count == len(array):
        return None
    if pa.types.is_floating(array.type):
        if pa.types.is_float16(array.type):
            array = array.cast(pa.float32())
        # Few distinct values is the rule for columns nobody reads: format each once.
        finite = pc.if_else(pc.is_finite(array), array, pa.scalar(None, array.type))
        encoded = finite.dictionary_encode()
        return encoded.dictionary.cast(pa.string()).take(encoded.indices)
    if pa.types.is_integer(array.type):
        return array.cast(pa.string())
    if pa.types.is_boolean(array.type):
        return pc.if_else(array, "true", "false")
    try:
        encoded = array.dictionary_encode()
    except pa.ArrowNotImplementedError:  # lists and structs
        spelled = [None if item is None else dump(item) for item in convert.items(array)]
        return pa.array(spelled, pa.string())
    spelled = [dump(item) for item in convert.items(encoded.dictionary)]
    return pa.array(spelled, pa.string()).take(encoded.indices)
