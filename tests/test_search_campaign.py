"""Campaigns on a make-believe machine: halves, turns, repeats, resuming, and seeds."""

from collections import Counter

import pytest
from data_samples import MACHINE, VERSIONS
from search_samples import TARGET, FakeRunner

from data.store import Store
from ir.task import task
from schedule.measurement import Candidate
from schedule.rules import sketches
from search.campaign import REPEAT_GROUP, TURN, Campaign, CampaignOptions, draw

TASKS = [task(text) for text in ("matmul:m=96,n=160,k=200", "matmul:m=8,n=16,k=4", "softmax:shape=32x64,axis=1")]


def run(path, max_trials, runner=None, tasks=TASKS, seed=0, max_seconds=None):
    with Store(path) as store:
        options = CampaignOptions(max_trials, max_seconds, seed)
        interrupted = Campaign(tasks, TARGET, runner or FakeRunner(), store, options, machine=MACHINE, versions=VERSIONS).run()
        return store.records(), interrupted


def candidates(records, *kinds):
    return [(record.task, Candidate(record.sketch, record.row)) for record in records if record.kind in kinds]


def test_half_are_samples_and_nothing_is_measured_twice_but_the_repeats(tmp_path):
    records, interrupted = run(tmp_path / "r.db", 40)
    assert not interrupted
    counts = Counter((record.task, record.kind) for record in records)
    assert {counts[of.key, kind] for of in TASKS for kind in ("sample", "trial")} == {20}
    firsts = candidates(records, "sample", "trial")
    assert len(set(firsts)) == len(firsts) == 120
    repeats = candidates(records, "repeat")
    assert len(repeats) == REPEAT_GROUP
    assert len(set(repeats)) == REPEAT_GROUP
    assert set(repeats) < set(firsts)
    assert [record.kind for record in records][-REPEAT_GROUP:] == ["repeat"] * REPEAT_GROUP


def test_all_tasks_have_some_when_stopped_early(tmp_path):
    records, interrupted = run(tmp_path / "r.db", 100, FakeRunner(interrupt_after=3 * TURN))
    assert interrupted
    assert Counter(record.task for record in records) == {of.key: TURN for of in TASKS}


def test_stopped_anywhere_it_goes_on_to_the_same_samples(tmp_path):
    whole, _ = run(tmp_path / "whole.db", 40)
    for n in (1, 21, 70):
        _, interrupted = run(tmp_path / "parts.db", 40, FakeRunner(interrupt_after=n))
        assert interrupted
    runner = FakeRunner()
    parts, _ = run(tmp_path / "parts.db", 40, runner)
    assert set(candidates(parts, "sample")) == set(candidates(whole, "sample"))
    assert len(runner.asked) == 120 - 92 + REPEAT_GROUP
    assert run(tmp_path / "parts.db", 40)[0] == parts


def test_more_can_be_asked(tmp_path):
    first, _ = run(tmp_path / "r.db", 20, tasks=TASKS[:1])
    records, _ = run(tmp_path / "r.db", 40, tasks=TASKS[:2])
    assert records[: len(first)] == first
    assert Counter(record.task for record in records if record.is_trial) == {of.key: 40 for of in TASKS[:2]}


def test_a_longer_draw_begins_with_a_shorter_one():
    known = sketches(TASKS[0].program, TARGET)
    long = draw(known, 200, 3, TASKS[0].key)
    assert draw(known, 10, 3, TASKS[0].key) == long[:10]
    assert len(set(long)) == 200
    assert draw(known, 10, 4, TASKS[0].key) != long[:10]
    assert draw(known, 10, 3, TASKS[1].key) != long[:10]


def test_a_space_that_is_used_up_ends_its_task(tmp_path):
    tiny = [task("reduce:function=sum,shape=1x2,axes=1")]
    records, interrupted = run(tmp_path / "r.db", 5000, tasks=tiny)
    assert not interrupted
    n = len(candidates(records, "sample", "trial"))
    assert 0 < n < 5000
    assert len(candidates(records, "repeat")) >= min(0.02 * n, 2)


def test_failures_are_kept_and_not_repeated(tmp_path):
    records, _ = run(tmp_path / "r.db", 40, FakeRunner(fails=lambda candidate: "crash" if sum(candidate.row) % 2 else ""))
    assert {record.failure for record in records if record.is_trial} == {"", "crash"}
    assert all(record.ok for record in records if record.kind == "repeat")


def test_where_all_fails_it_ends(tmp_path):
    records, interrupted = run(tmp_path / "r.db", 20, FakeRunner(fails=lambda candidate: "build"))
    assert not interrupted
    assert len(records) == 60


def test_no_time_no_trial(tmp_path):
    records, interrupted = run(tmp_path / "r.db", 20, max_seconds=0.0)
    assert (records, interrupted) == ([], False)


@pytest.mark.parametrize("max_trials", [2, 3, 17])
def test_any_number_of_trials(tmp_path, max_trials):
    records, _ = run(tmp_path / "r.db", max_trials)
    assert Counter(record.task for record in records if record.is_trial) == {of.key: max_trials for of in TASKS}
    assert Counter(record.kind for record in records)["sample"] == 3 * -(-max_trials // 2)
