"""The cost model that comes with Tilewright: shipped.ubj, trained on data/measured (`tilewright train data/measured -o costmodel/shipped.ubj`)."""

from __future__ import annotations

from importlib.resources import as_file, files

from costmodel.features import FEATURE_VERSION
from costmodel.model import CostModel
from costmodel.task_features import TaskFeatures

SHIPPED = "shipped.ubj"


def shipped_model() -> CostModel:
    """`UserError` where the file is missing, damaged, or for features of another version."""
    with as_file(files("costmodel") / SHIPPED) as path:
        return CostModel.load(path, FEATURE_VERSION, TaskFeatures.names)
