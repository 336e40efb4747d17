"""A model as one file: an ONNX graph with its card, which says what it is, in its metadata."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy.typing as npt
import onnxruntime

from pipeline import durable
from pipeline.connect import within
from pipeline.errors import ConfigError, not_done
from pipeline.shown import address
from pipeline.stores import store_at

if TYPE_CHECKING:
    import onnx

# The operators' version that graphs are written for; any onnxruntime since 1.14 has it.
OPSET, IR_VERSION = 17, 8
_KEY = "battery_pipeline.card"
_FORMAT = 1
_MOST_BYTES = 64 * 1024 * 1024
_READ_S = 60.0
_TRAIN = "give a file that python -m pipeline.train wrote"
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "scikit-learn")
# What differs between two trainings that give the same model, and so is not in its version.
_CIRCUMSTANCES = ("made_at", "versions", "version")
_TITLES: Final[Mapping[str, str]] = {
    "data": "Data",
    "training": "Training",
    "error": "Error",
    "coverage": "Intervals",
    "domain": "Where it predicts",
    "limits": "Limits",
}

Card = dict[str, Any]
Array = npt.NDArray[Any]


class Model:
    """A model that has been read, ready to run.

    Attributes:
        path: where it was read from, as it may be shown.
        card: what it says of itself: at least name, kind, version, made_at, features (definition by
            name), opset.
    """

    def __init__(self, path: str, card: Card, session: onnxruntime.InferenceSession) -> None:
        self.path, self.card = path, card
        self._session = session
        self._outputs = [each.name for each in session.get_outputs()]

    @classmethod
    def load(
        cls,
        path: str | Path,
        kind: str | None = None,
        features: Sequence[str] | None = None,
        flag: str = "--model",
    ) -> Model:
        """Reads a model.

        Args:
            path: a file, gs://BUCKET/NAME or s3://BUCKET/NAME.
            kind: the kind that is needed, such as `early_life`; None takes any.
            features: the features that will be given, in order; None does not look.
            flag: what named the file, for messages.

        Raises:
            ConfigError: it can't be read, is no model, or not the one that is needed; names the
                file, the flag and the fix.
        """
        shown = f"{flag}={address(str(path))}"
        content = _content(str(path), flag, shown)
        options = onnxruntime.SessionOptions()
        # Small graphs: threads would cost more than they do, and workers have their own.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise ConfigError(
                f"{shown}: is no ONNX model that onnxruntime {onnxruntime.__version__} can run "
                f"({_first_line(error)}); {_TRAIN}"
            ) from error
        card = _card(session, shown)
        if kind is not None and card["kind"] != kind:
            raise ConfigError(
                f"{shown}: is a model of kind {card['kind']}, not {kind}; give one of kind {kind}"
            )
        if features is not None and list(card["features"]) != list(features):
            other = sorted(set(card["features"]) ^ set(features)) or ["their order"]
            raise ConfigError(
                f"{shown}: was trained on other features than this version computes "
                f"({', '.join(other[:3])}{', …' if len(other) > 3 else ''}); train it again"
            )
        return cls(address(str(path)), card, session)

    @property
    def version(self) -> str:
        """A hash of its content: the same training gives the same."""
        return str(self.card["version"])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What the graph gives: by output's name, for arrays by input's name."""
        found = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, found, strict=True))


def write(path: str | Path, model: onnx.ModelProto, card: Mapping[str, Any]) -> Card:
    """Writes a model with its card in it, and the card for a person next to it.

    Args:
        path: the file; `PATH.card.md` is written too. Both are whole or not there.
        model: the graph.
        card: JSON values: `name`, `kind`, `features` (definition by name) and whatever the kind
            needs; the format, version, time and libraries are added.

    Returns:
        The card that was written.

    Raises:
        OSError: the files can't be written.
        ValueError: the card lacks something.
    """
    import onnx

    lacks = [name for name in ("name", "kind", "features") if not card.get(name)]
    if lacks:
        raise ValueError(f"the card has no {', '.join(lacks)}")
    del model.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    full: Card = {
        "format": _FORMAT,
        **card,
        "opset": max(each.version for each in model.opset_import),
    }
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    digest.update(_json({k: v for k, v in full.items() if k not in _CIRCUMSTANCES}).encode())
    full["version"] = digest.hexdigest()[:12]
    full["made_at"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    full["versions"] = {name: installed(name) for name in _LIBRARIES}
    onnx.helper.set_model_props(model, {_KEY: _json(full)})
    target = Path(path)
    durable.replace(target, [model.SerializeToString(deterministic=True)])
    durable.replace(card_path(target), [readable(full).encode()])
    return full


def card_path(path: Path) -> Path:
    """Where the card for a person is."""
    return path.with_name(f"{path.name}.card.md")


def readable(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    lines = [f"# {card['name']} {card['version']}", ""]
    if about := card.get("about"):
        lines += [str(about), ""]
    lines += [
        f"Kind `{card['kind']}`, made {card['made_at']} with "
        + ", ".join(f"{name} {number}" for name, number in card["versions"].items())
        + f"; ONNX operators {card['opset']}.",
        "",
    ]
    for key, title in _TITLES.items():
        if key in card:
            lines += [f"## {title}", "", *_points(card[key]), ""]
    lines += ["## Features", "", "| feature | definition |", "|---|---|"]
    lines += [
        f"| `{name}` | {text.replace('|', chr(92) + '|')} |"
        for name, text in card["features"].items()
    ]
    return "\n".join([*lines, ""])


def _points(value: Any) -> list[str]:
    if not isinstance(value, Mapping):
        return [str(value)]
    return [f"- {name.replace('_', ' ')}: {_text(each)}" for name, each in value.items()]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name.replace('_', ' ')} {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(each) for each in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _content(path: str, flag: str, shown: str) -> bytes:
    if "://" in path:
        return _remote(path, flag, shown)
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{shown}: there is no such file; {_TRAIN}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{shown}: is a folder; {_TRAIN}") from error
    except OSError as error:
        raise ConfigError(not_done(flag, address(path), "read", error)) from error
    return _sized(content, shown)


def _remote(path: str, flag: str, shown: str) -> bytes:
    folder, _, name = path.rpartition("/")
    if not name or folder.endswith("/") or not path.startswith(("gs://", "s3://")):
        raise ConfigError(
            f"{shown}: names no file; give a path, gs://BUCKET/NAME.onnx or s3://BUCKET/NAME.onnx"
        )
    try:
        store = store_at(folder)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--lake=", f"{flag}=", 1)) from error

    def read() -> bytes | None:
        if not store.exists(name):
            return None
        with store.open(name) as file:
            return file.read(_MOST_BYTES + 1)

    try:
        content = within(_READ_S, read)
    except TimeoutError as error:
        raise ConfigError(
            f"{shown}: no answer within {_READ_S:g} s; check the network, the address and the credentials"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"{shown}: can't be read ({_first_line(error)}); check the address and the credentials"
        ) from error
    if content is None:
        raise ConfigError(f"{shown}: there is no such object; {_TRAIN}")
    return _sized(content, shown)


def _sized(content: bytes, shown: str) -> bytes:
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{shown}: is larger than {_MOST_BYTES >> 20} MiB; {_TRAIN}")
    if not content:
        raise ConfigError(f"{shown}: is empty; {_TRAIN}")
    return content


def _card(session: onnxruntime.InferenceSession, shown: str) -> Card:
    text = session.get_modelmeta().custom_metadata_map.get(_KEY)
    if text is None:
        raise ConfigError(f"{shown}: is an ONNX model without this project's card; {_TRAIN}")
    try:
        card = json.loads(text)
        number, opset = card["format"], card["opset"]
        known = isinstance(card["features"], dict) and isinstance(opset, int)
        known &= all(isinstance(card[name], str) for name in ("name", "kind", "version"))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{shown}: its card is damaged; {_TRAIN}") from error
    if not known:
        raise ConfigError(f"{shown}: its card is damaged; {_TRAIN}")
    if number != _FORMAT or opset > OPSET:
        raise ConfigError(
            f"{shown}: has card format {number} and ONNX operators {opset}, and this version reads "
            f"{_FORMAT} and at most {OPSET}; use the version that wrote it, or train it again"
        )
    return dict(card)


def _first_line(error: Exception) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", str(error).strip() or type(error).__name__)
    return text.splitlines()[0][:200]
