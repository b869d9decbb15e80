"""Campaigns on a make-believe machine: halves, turns, repeats, resuming, and seeds."""

from collections import Counter

import pytest
from data_samples import MACHINE, VERSIONS
from search_samples import TARGET, FakeRunner

from costmodel.task_features import TaskFeatures
from data.record import default_of
from data.store import Store
from ir.errors import NoReference, UserError
from ir.task import task
from schedule.measurement import Candidate
from schedule.rules import sketches
from search import campaign
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


def test_another_seed_keeps_the_halves(tmp_path):
    run(tmp_path / "r.db", 20, tasks=TASKS[:1])
    records, _ = run(tmp_path / "r.db", 40, tasks=TASKS[:1], seed=1)
    assert Counter(record.kind for record in records if record.is_trial) == {"sample": 20, "trial": 20}


def test_the_search_leaves_the_samples_that_are_still_to_be_drawn(tmp_path):
    """Otherwise it would take the good ones, and those that are left would not be uniform."""
    records, _ = run(tmp_path / "r.db", 64, tasks=TASKS[1:2])
    drawn = draw(sketches(TASKS[1].program, TARGET), 32, 0, TASKS[1].key)
    assert {candidate for _, candidate in candidates(records, "sample")} == set(drawn)


def test_no_trial_is_taken_for_the_default_schedule(tmp_path):
    records, _ = run(tmp_path / "r.db", 20)
    assert min(record.trial for record in records) == 1
    assert default_of(records) is None


def test_a_resumed_campaign_repeats_until_there_are_enough(tmp_path, monkeypatch):
    """Although no task is without a group of repeats."""
    run(tmp_path / "r.db", 20, tasks=TASKS[:2])
    for share, n in ((0.2, 2 * REPEAT_GROUP), (0.25, 3 * REPEAT_GROUP), (0.25, 3 * REPEAT_GROUP)):
        monkeypatch.setattr(campaign, "REPEAT_SHARE", share)
        records, _ = run(tmp_path / "r.db", 20, tasks=TASKS[:2])
        assert len(candidates(records, "repeat")) == len(set(candidates(records, "repeat"))) == n


def test_repeats_end_where_nothing_is_left_to_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "REPEAT_SHARE", 2.0)
    records, _ = run(tmp_path / "r.db", 10, tasks=TASKS[:2])
    assert Counter(candidates(records, "repeat")) == Counter(candidates(records, "sample", "trial"))


def test_a_task_without_reference_does_not_end_the_campaign(tmp_path):
    class Runner(FakeRunner):
        asked_of: Counter[str] = Counter()  # noqa: RUF012  # there is one runner

        def __call__(self, task, candidates, **options):
            self.asked_of[task.key] += 1
            if task.key == TASKS[2].key:
                raise NoReference("the right result cannot be computed")
            return super().__call__(task, candidates, **options)

    runner = Runner()
    with Store(tmp_path / "r.db") as store:
        mine = Campaign(TASKS, TARGET, runner, store, CampaignOptions(20), machine=MACHINE, versions=VERSIONS)
        assert not mine.run()
        assert Counter(record.task for record in store.records() if record.is_trial) == {of.key: 20 for of in TASKS[:2]}
    assert mine.given_up == {TASKS[2].key: "the right result cannot be computed"}
    assert runner.asked_of[TASKS[2].key] == 1


def test_other_errors_end_it(tmp_path):
    def full(candidate):
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        run(tmp_path / "r.db", 20, FakeRunner(fails=full))


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


def test_what_describes_a_task_is_made_once_a_turn(tmp_path, monkeypatch):
    """Although its search learns after each batch."""
    made = []
    monkeypatch.setattr(campaign, "TaskFeatures", lambda *of: made.append(of) or TaskFeatures(*of))
    records, _ = run(tmp_path / "r.db", TURN, tasks=TASKS[:1])
    assert len(candidates(records, "trial")) > campaign.BATCH
    assert len(made) == 1


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


def test_no_time_no_sketches(tmp_path, monkeypatch):
    """They take seconds where tasks are many."""
    before, _ = run(tmp_path / "r.db", 10)
    monkeypatch.setattr(campaign, "sketches_of", None)
    assert run(tmp_path / "r.db", 5000, max_seconds=0.0) == (before, False)


@pytest.mark.parametrize("max_trials", [2, 3, 17])
def test_any_number_of_trials(tmp_path, max_trials):
    records, _ = run(tmp_path / "r.db", max_trials)
    assert Counter(record.task for record in records if record.is_trial) == {of.key: max_trials for of in TASKS}
    assert Counter(record.kind for record in records)["sample"] == 3 * -(-max_trials // 2)
