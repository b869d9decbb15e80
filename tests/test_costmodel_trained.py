"""The cost model that comes along: it can be read, is small, says what it is, and orders recorded candidates that it has never seen."""

from importlib.resources import files
from pathlib import Path

import numpy as np

from costmodel.features import FEATURE_VERSION
from costmodel.metrics import quality
from costmodel.task_features import TaskFeatures
from costmodel.trained import SHIPPED, shipped_model
from data.exchange import read
from ir.task import task
from schedule.rules import sketches

RECORDS = Path(__file__).parent / "golden" / "conv2d_trials.parquet"


def test_it_says_what_it_is():
    card = shipped_model().card_
    assert card.feature_version == FEATURE_VERSION
    assert card.feature_names == TaskFeatures.names
    assert len(card.training["trained"]) >= 120  # tasks
    assert card.scores["pairwise_accuracy"] > 0.7
    assert len(card.data_sha256) == 64
    assert len((files("costmodel") / SHIPPED).read_bytes()) <= 5_000_000


def test_it_orders_candidates_of_another_campaign():
    """Of a convolution that it has seen with another epilogue."""
    records = [record for record in read(RECORDS)[0] if record.kind == "trial"]
    of, target = task(records[0].task), records[0].target
    describe = TaskFeatures(sketches(of.program, target), target)
    scores, throughputs = [], []
    for sketch in sketches(of.program, target):
        mine = [record for record in records if record.sketch == sketch.name]
        if mine:
            scores.append(shipped_model().predict(describe(sketch, np.array([record.row for record in mine]))))
            throughputs += [of.work / record.best_seconds for record in mine]
    found = quality(np.concatenate(scores), throughputs)
    assert found.pairwise_accuracy > 0.6
    assert found.top_5 > 0.9
