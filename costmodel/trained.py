"""Cost models trained before: of any file, and the one that comes with Tilewright, shipped.ubj, trained on data/measured
(`tilewright train data/measured -o costmodel/shipped.ubj`)."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from costmodel.features import FEATURE_VERSION
from costmodel.model import CostModel
from costmodel.task_features import TaskFeatures

SHIPPED = "shipped.ubj"


def trained_model(path: str | Path) -> CostModel:
    """What `tilewright train` wrote, with what it says of itself as `card_`; `UserError` for any other file, and for features of another version."""
    return CostModel.load(path, FEATURE_VERSION, TaskFeatures.names)


def shipped_model() -> CostModel:
    """`UserError` where the file is missing, damaged, or for features of another version."""
    with as_file(files("costmodel") / SHIPPED) as path:
        return trained_model(path)
