"""Features against what is usual for a task."""

import json
from pathlib import Path

import numpy as np
import pytest

from costmodel.feature_table import GROUPS
from costmodel.features import FEATURE_VERSION, FEATURES, FeatureExtractor
from costmodel.task_features import RELATIVE, SAMPLED_ROWS, TaskFeatures, described_once
from ir.task import task
from schedule.rules import sketches
from schedule.target import Target

TARGET = Target("generic", "", 8, 16, 32 << 10, 512 << 10, 8 << 20, 2)
TASKS = ("matmul:m=48,n=64,k=40", "conv2d:c=16,h=14,w=14,k=20,r=3,s=3,pad=1,epilogue=bias+relu", "softmax:shape=64x96,axis=1")


@pytest.mark.parametrize("text", TASKS)
def test_absolute_features_first_then_distances_from_the_mean_of_samples(text):
    known = sketches(task(text).program, TARGET)
    describe = TaskFeatures(known, TARGET)
    n = len(FEATURES)
    absolute, relative = [], []
    for sketch in known:
        X = sketch.space.sample(SAMPLED_ROWS, np.random.default_rng(0))
        found = describe(sketch, X)
        assert found.dtype == np.float32
        assert found.shape == (len(X), len(TaskFeatures.names))
        np.testing.assert_array_equal(found[:, :n], FeatureExtractor(sketch, TARGET)(X))
        absolute.append(found[:, :n])
        relative.append(found[:, n:])
    np.testing.assert_allclose(np.concatenate(relative).mean(axis=0), 0, atol=1e-3)
    columns = [TaskFeatures.names.index(name.removesuffix(RELATIVE)) for name in TaskFeatures.names[n:]]
    distances = np.concatenate(absolute)[:, columns] - np.concatenate(relative)
    assert np.ptp(distances, axis=0).max() < 1e-3  # one number for each feature of the task, whatever the sketch


def test_what_is_the_same_within_a_task_has_no_distance():
    slots = {name.split(".")[0] for name in TaskFeatures.names if name.endswith(RELATIVE)}
    assert slots.isdisjoint({"task", "machine"})
    assert "compute" in slots


def test_the_same_rows_have_the_same_features_in_whatever_order():
    known = sketches(task(TASKS[0]).program, TARGET)
    X = known[0].space.sample(50, np.random.default_rng(1))
    np.testing.assert_array_equal(TaskFeatures(known, TARGET)(known[0], X)[::-1], TaskFeatures(known, TARGET)(known[0], X[::-1]))


@pytest.mark.parametrize("text", TASKS)
def test_described_once_is_the_same(text):
    """Also of sketches that have no rows."""
    known = sketches(task(text).program, TARGET)
    describe = TaskFeatures(known, TARGET)
    populations = [(sketch, sketch.space.sample(30, np.random.default_rng(1))[: 30 * (number % 2)]) for number, sketch in enumerate(known)]
    for (sketch, X), found in zip(populations, described_once(populations, TARGET), strict=True):
        np.testing.assert_array_equal(found, describe(sketch, X))


def test_every_feature_has_a_group():
    assert len(TaskFeatures.groups) == len(TaskFeatures.names)
    assert set(TaskFeatures.groups) == set(GROUPS)


GOLDEN = Path(__file__).parent / "golden" / "usual_features.json"


def usual(text):
    """What is usual for the task, by feature."""
    known = sketches(task(text).program, TARGET)
    found = TaskFeatures(known, TARGET)(known[0], known[0].space.sample(1, np.random.default_rng(0)))[0]
    by_name = dict(zip(TaskFeatures.names, found.tolist(), strict=True))
    return {name: by_name[name] - by_name[name + RELATIVE] for name in FeatureExtractor.names if name + RELATIVE in by_name}


@pytest.mark.parametrize("text", TASKS)
def test_what_is_usual_stays_so_within_a_version(text):
    """It hangs on sketches, spaces and how they are sampled: where it moves, models that were trained before rank worse without anyone noticing.

    If it is meant to: a new FEATURE_VERSION, the shipped model trained again, and `python tests/test_costmodel_task_features.py` for the new numbers.
    """
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == FEATURE_VERSION
    found = usual(text)
    assert found.keys() == golden[text].keys()
    moved = {name: (golden[text][name], value) for name, value in found.items() if abs(value - golden[text][name]) > 1e-3 * (1 + abs(value))}
    assert not moved


if __name__ == "__main__":
    numbers = {text: {name: round(value, 5) for name, value in usual(text).items()} for text in TASKS}
    GOLDEN.write_text(json.dumps({"version": FEATURE_VERSION, **numbers}, indent=0) + "\n")
