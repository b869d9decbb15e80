"""A cost model as a file: XGBoost's UBJSON with a card that says what the model is, and a seal over every byte.

XGBoost trusts what it reads: an empty file ends the process (`abort`, xgboost 3.2), a file cut short may ask for terabytes, one changed byte usually
loads and predicts something else. So no byte goes to XGBoost before the seal, a SHA-256 kept in the file as an attribute of the booster,
has been found right. The file stays a plain XGBoost model that other tools can read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xgboost as xgb

from ir.errors import UserError
from ir.files import replacing

FORMAT_VERSION = 3  # 2: what it was trained on. 3: that as operator texts

_CARD, _SEAL = "tilewright", "tilewright_seal"  # names of booster attributes
_START = b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner"  # of every XGBoost model in UBJSON
_MARK = b"tilewright-seal-sha256:"
_DIGEST_BYTES = 64  # in hexadecimal
_OPEN = _MARK + b"0" * _DIGEST_BYTES  # stands in for the seal while the digest is computed


@dataclass(frozen=True)
class ModelCard:
    """What a model file says of its model."""

    feature_version: int
    feature_names: tuple[str, ...]  # in the order of the columns
    parameters: Mapping[str, Any]  # of the `CostModel`
    data_sha256: str  # of the features, throughputs and groups that it learned from
    scores: Mapping[str, Any]  # how good it was on held-out data; JSON
    training: Mapping[str, Any]  # what it was trained on, and what not; JSON
    versions: Mapping[str, str]  # of the packages that made it


def write_model(path: str | Path, booster: xgb.Booster, card: ModelCard) -> None:
    """Writes the file in one step: whoever reads meanwhile, or after a crash, finds the old file or the new one. `UserError` if it cannot be written."""
    sealed = booster.copy()
    sealed.set_attr(**{_CARD: json.dumps({"format_version": FORMAT_VERSION, **asdict(card)}, sort_keys=True, allow_nan=False), _SEAL: _OPEN.decode()})
    content = bytes(sealed.save_raw("ubj"))
    content = content.replace(_OPEN, _MARK + _digest(content), 1)
    try:
        with replacing(Path(path)) as file:
            file.write(content)
    except OSError as error:
        raise _error(path, f"it cannot be written: {error.strerror}") from error


def read_model(path: str | Path, feature_version: int, feature_names: Sequence[str]) -> tuple[xgb.Booster, ModelCard]:
    """The model of a file that `write_model` wrote, for features of this version with these names; `UserError` for any other file."""
    content = _unsealed(path)
    booster = xgb.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgb.core.XGBoostError as error:  # intact, so it is of an XGBoost that writes what this one does not know
        raise _error(path, f"XGBoost {xgb.__version__} cannot read it, a newer version may have written it") from error
    card = _card(path, booster)
    if card.feature_version != feature_version:
        raise _error(path, f"it was trained on version {card.feature_version} of the features, this Tilewright has version {feature_version}; train it again")
    if card.feature_names != tuple(feature_names):
        raise _error(path, f"it was trained on other features: {_difference(tuple(feature_names), card.feature_names)}")
    return booster, card


def _unsealed(path: str | Path) -> bytes:
    """The bytes of the file, with the seal found right and opened."""
    if not os.path.isfile(path):
        found = "directory" if os.path.isdir(path) else "device or pipe"
        raise _error(path, f"it is a {found}; expected a file" if os.path.exists(path) else "it does not exist")
    try:
        with open(path, "rb") as file:
            start = file.read(len(_START))
            content = start + file.read() if start == _START else b""
    except OSError as error:
        raise _error(path, f"it cannot be read: {error.strerror}") from error
    if not content:
        raise _error(path, "it is empty" if not start else "it is not an XGBoost model in UBJSON; expected a file that tilewright train wrote")
    at = content.find(_MARK)
    if at < 0:
        raise _error(path, "it is an XGBoost model, or the start of one, without Tilewright's seal; expected a file that tilewright train wrote")
    digest_at = at + len(_MARK)
    opened = content[:at] + _OPEN + content[digest_at + _DIGEST_BYTES :]
    if content[digest_at : digest_at + _DIGEST_BYTES] != _digest(opened):
        raise _error(path, f"it is damaged or cut short, its {len(content)} bytes do not match its seal")
    return opened


def _card(path: str | Path, booster: xgb.Booster) -> ModelCard:
    fields = json.loads(booster.attr(_CARD))  # there, and well formed: the seal says that we wrote it
    version = fields.pop("format_version")
    if version != FORMAT_VERSION:
        raise _error(path, f"its format has version {version}, this Tilewright reads version {FORMAT_VERSION}")
    return ModelCard(**fields | {"feature_names": tuple(fields["feature_names"])})


def _difference(expected: tuple[str, ...], found: tuple[str, ...]) -> str:
    """Where two lists of names part first, in words."""
    if len(expected) != len(found):
        return f"expected {len(expected)}, found {len(found)}{_only('missing', expected, found)}{_only('unknown', found, expected)}"
    at = next(i for i, (here, there) in enumerate(zip(expected, found, strict=True)) if here != there)
    return f"expected {expected[at]} as number {at}, found {found[at]}"


def _only(word: str, names: tuple[str, ...], others: tuple[str, ...]) -> str:
    only = [name for name in names if name not in set(others)]
    return f"; {word}: {', '.join(only[:3])}{f' and {len(only) - 3} more' if len(only) > 3 else ''}" if only else ""


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _error(path: str | Path, reason: str) -> UserError:
    return UserError(f"cost model {path}: {reason}")
