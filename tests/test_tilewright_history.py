from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.record import machine_id
from data.store import Store
from ir.errors import UserError
from ir.task import task as task_of
from tests import data_samples
from tests.tuning_samples import CONV, FOREIGN, LONGEST, MATMUL, batch_round, final, store, trials, tuning
from tilewright.history import MAX_LABEL, SCORES, chance_of_best, read_history, short_name, task_history

# --- one task -------------------------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.floats(1e-6, 1e-1), min_size=1, max_size=12), st.randoms())
def test_trials_stand_in_the_order_of_time_and_fall_to_the_fastest(seconds: list[float | None], random) -> None:
    records = trials(*seconds)
    shuffled = random.sample(records, len(records))
    found = task_history(shuffled, [], 0)
    times = [math.inf if each is None else each for each in seconds]
    assert found.trials["seconds"].tolist() == times
    assert found.trials["so_far"].tolist() == [min(times[: i + 1]) for i in range(len(times))]
    assert (found.n_trials, found.n_failed) == (len(seconds), seconds.count(None))
    assert found.best_seconds == min(times)
    assert found.tuning_seconds == len(seconds)
    if found.best:
        assert found.n_until_fastest == times.index(min(times)) + 1


def test_default_is_trial_0_unless_it_was_measured_again() -> None:
    records = trials(4e-3, 1e-3)
    assert task_history(records, [], 0).speedup == pytest.approx(4)
    again = [*records, final(records[0], 3e-3), final(records[1], 2e-3, kept=True)]
    assert task_history(again, [], 0).speedup == pytest.approx(1.5)


def test_default_that_failed_or_is_missing_is_not_compared() -> None:
    for records in (trials(None, 1e-3), trials(4e-3, 1e-3)[1:]):
        found = task_history(records, [], 0)
        assert found.default is None
        assert not found.compared
        assert found.best_seconds == 1e-3


def test_task_without_a_valid_trial() -> None:
    found = task_history(trials(None, None), [], 7)
    assert (found.best, found.number, found.compared, found.best_speed) == (None, None, False, 0)
    assert found.title == found.label


def test_speed_is_work_over_time() -> None:
    found = task_history(trials(1e-3), [], 0)
    assert found.best_speed == pytest.approx(2 * 64 * 48 * 32 / 1e-3 / 1e9)
    assert found.unit == "GFLOP/s"


def test_task_of_another_version_has_times_but_no_work() -> None:
    found = task_history(trials(2e-3, 1e-3, task=FOREIGN), [], 0)
    assert (found.task, found.label, found.unit) == (None, FOREIGN[: MAX_LABEL - 1] + "…" if len(FOREIGN) > MAX_LABEL else FOREIGN, "runs/s")
    assert (found.best_speed, found.speedup) == (pytest.approx(1000), pytest.approx(2))


def test_short_names() -> None:
    depthwise = "conv2d:n=2,c=96,h=112,w=112,k=96,r=3,s=3,stride=1x2,pad=1,groups=96,dilation=1,layout=nhwc,epilogue=none"
    assert short_name(MATMUL) == "matmul 64×48×32"
    assert short_name("matmul:m=1,n=2,k=3,b=variable,epilogue=bias") == "matmul 1×2×3, variable b, bias"
    assert short_name("batch_matmul:batch=4,m=1,n=2,k=3,b=variable,epilogue=none") == "batch matmul 4 of 1×2×3"
    assert short_name("batch_matmul:batch=4,m=1,n=2,k=3,b=constant,epilogue=none") == "batch matmul 4 of 1×2×3, constant b"
    assert short_name(CONV) == "conv2d 3×3, 64→128, 56×56, stride 2, bias+relu"
    assert short_name(depthwise) == "depthwise 3×3, 96 channels, 112×112, stride 1x2, batch 2"
    for text, name in (
        ("conv2d:c=4,h=5,w=5,k=8,r=1,s=1,prologue=scale+bias+relu,epilogue=bias", "conv2d 1×1, 4→8, 5×5, scale+bias+relu before, bias"),
        ("conv1d:c=4,w=9,k=8,s=3,groups=2", "conv1d 3, 4→8, 9, 2 groups"),
        ("conv3d:c=4,d=5,h=6,w=7,k=8,t=1,r=2,s=3,epilogue=relu", "conv3d 1×2×3, 4→8, 5×6×7, relu"),
        ("conv_transpose2d:c=4,h=4,w=4,k=6,r=4,s=4,stride=2,pad=1", "conv transpose2d 4×4, 4→6, 4×4, stride 2"),
        ("capsule_conv2d:c=4,h=5,w=5,k=6,r=3,s=3", "capsule conv2d 3×3, 4→6, 5×5"),
        ("einsum:equation=bik.bkj.bij,sizes=b1.i2.j3.k4,b=constant", "einsum bik bkj bij, b1 i2 j3 k4, constant b"),
        ("reduce:function=l2,shape=2x3x4,axes=1x2", "l2 of 2×3×4, axes 1, 2"),
        ("softmax:shape=2x3x4,axis=2", "softmax of 2×3×4, axis 2"),
        ("log_softmax:shape=3x4,axis=1", "log softmax of 3×4, axis 1"),
        ("layer_norm:shape=2x3x4,axes=1x2", "layer norm of 2×3×4, axes 1, 2"),
        ("rms_norm:shape=3x4,axes=1", "rms norm of 3×4, axes 1"),
        ("batch_norm:n=2,c=3,h=4,w=5", "batch norm, 3 channels, 4×5, batch 2"),
        ("instance_norm:c=3,h=4,w=5", "instance norm, 3 channels, 4×5"),
        ("max_pool2d:c=3,h=9,w=8,r=3,s=2,stride=2,pad=1", "max pool 3×2, 3 channels, 9×8, stride 2"),
        ("average_pool2d:n=4,c=3,h=9,w=8,r=3,s=3", "average pool 3×3, 3 channels, 9×8, batch 4"),
        ("global_average_pool:c=3,h=9,w=8", "global average pool, 3 channels, 9×8"),
        ("global_max_pool:c=3,h=9,w=8", "global max pool, 3 channels, 9×8"),
        ("attention:batch=2,heads=12,queries=128,keys=64,dim=32", "attention of 12 heads, 128×64, 32 each, batch 2"),
        ("concat:shapes=2x3.2x3.2x4.2x3,axis=1", "concat of 2×3 (2 times), 2×4, 2×3, axis 1"),
        ("elementwise:shapes=64x128.1x128,value=exp(max(a;b))", "exp(max(a;b)) of 64×128, 1×128"),
        ("elementwise:shapes=64x128.1x128,types=bool.int8,value=min(a;cast_bool(b))", "min(a;cast_bool(b)) of 64×128, 1×128, bool, int8"),
    ):
        assert short_name(task_of(text).key) == name
    assert len(task_history(trials(1.0, task=LONGEST), [], 0).label) == MAX_LABEL


# --- rounds ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0]) | st.floats(0.1, 10), min_size=1, max_size=8).filter(any), st.integers(1, 6))
def test_chance_of_best_is_the_mean_over_all_choices(speeds: list[float], k: int) -> None:
    choices = list(combinations(speeds, min(k, len(speeds))))
    assert chance_of_best(speeds, k) == pytest.approx(np.mean([max(choice) for choice in choices]) / max(speeds))


def test_chances_are_those_of_the_round_s_own_batch() -> None:
    records = [*trials(1.0, 2.0, 4.0, None, 1.0, 1.0, 2.0, 2.0), *trials(5.0, 5.0, 5.0, 5.0, seed=1)]
    found = task_history(records, [batch_round(0, n_failed=1), batch_round(1, top_1=None)], 0).rounds
    assert found["chance_pairwise_accuracy"].tolist() == [0.5, 0.5]
    assert found["chance_recall_at_k"].tolist() == [0.5, 0.5]
    assert found["chance_top_1"][0] == pytest.approx((1 + 0.5 + 0.25) / 4)
    assert math.isnan(found["chance_top_1"][1])  # a score that is not known needs nothing to compare with
    assert found["chance_top_5"].tolist() == pytest.approx([1, 1])


def test_round_whose_trials_are_elsewhere_has_no_chance_of_speed() -> None:
    found = task_history(trials(1.0), [batch_round(8)], 0).rounds
    assert math.isnan(found["chance_top_1"][0])
    assert found["top_1"][0] == 0.9


# --- a file ---------------------------------------------------------------------------------------------------------


def test_sections_are_machines_and_thread_counts(tmp_path: Path) -> None:
    other = data_samples.MACHINE | {"cpu_model": "another CPU"}
    records = [
        *trials(2.0, None), *trials(3.0, task=CONV), *trials(4.0, threads=1),
        *trials(None, machine=other), *trials(5.0, task=CONV, machine=other, versions={"llvmlite": "0.46.0", "tilewright": "0.1.0"}),
        *trials(6.0, task=CONV, machine=other, seed=1, versions={"llvmlite": "0.47.0"}),
    ]  # fmt: skip
    found = read_history(store(tmp_path / "r.db", records, [batch_round(0), batch_round(0, task=CONV)]))
    assert [section.title for section in found.sections] == ["Example™ CPU, 2 threads", "Example™ CPU, 1 thread", "another CPU, 2 threads"]
    assert [[t.key for t in section.tasks] for section in found.sections] == [[MATMUL, CONV], [MATMUL], [MATMUL, CONV]]
    assert [[t.key for t in section.tuned] for section in found.sections] == [[CONV, MATMUL], [MATMUL], [CONV]]
    assert [[len(t.rounds) for t in section.tasks] for section in found.sections] == [[1, 1], [0], [0, 0]]
    assert found.sections[2].versions == {"tilewright": "0.1.0", "llvmlite": "0.45.0, 0.46.0, 0.47.0"}
    assert found.sections[0].failures.to_dict("records") == [{"failure": "timeout", "n": 1, "message": "the worker said timeout"}]


def test_numbers_are_those_of_the_list_of_best_schedules(tmp_path: Path) -> None:
    path = store(tmp_path / "r.db", [*trials(None, threads=1), *trials(2.0), *trials(None, task=CONV), *trials(3.0, task=CONV, threads=1)])
    with Store(path) as opened:
        listed = {setting: number for number, setting in enumerate(opened.best())}
    for section in read_history(path).sections:
        for task in section.tasks:
            assert task.number == listed.get((task.key, machine_id(section.machine), section.threads))


def test_total_is_of_tasks_that_can_be_compared(tmp_path: Path) -> None:
    section = read_history(store(tmp_path / "r.db", [*trials(4.0, 1.0), *trials(6.0, 4.0, task=CONV), *trials(None, 1.0, task=FOREIGN)])).sections[0]
    assert (section.default_seconds, section.best_seconds, section.speedup) == (10, 5, 2)
    assert [t.key for t in section.compared] == [CONV, MATMUL]


def test_judged_rounds_are_those_with_a_score(tmp_path: Path) -> None:
    records, rounds = tuning(MATMUL, 48, 0)
    judged = read_history(store(tmp_path / "r.db", records, rounds)).sections[0].judged
    assert judged["round"].tolist() == [1, 2]
    assert judged[list(SCORES)].notna().all(axis=None)


def test_records_file_without_a_trial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trial"):
        read_history(store(tmp_path / "r.db", [], [batch_round(0)]))
