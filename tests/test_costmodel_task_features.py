"""Features against what is usual for a task."""

import numpy as np
import pytest

from costmodel.feature_table import GROUPS
from costmodel.features import FEATURES, FeatureExtractor
from costmodel.task_features import RELATIVE, SAMPLED_ROWS, TaskFeatures
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


def test_every_feature_has_a_group():
    assert len(TaskFeatures.groups) == len(TaskFeatures.names)
    assert set(TaskFeatures.groups) == set(GROUPS)
