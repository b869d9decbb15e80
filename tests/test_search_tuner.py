"""The tuning loop on a make-believe machine: budgets, records, resuming, interrupts, failures."""

import math
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from search_samples import TARGET, TASK, FakeRunner, known_sketches

from costmodel.features import FeatureExtractor
from costmodel.model import CostModel, RandomModel
from costmodel.roofline import RooflineModel
from data.meaning import with_meaning
from data.record import TIMEOUT, UNCHECKED
from data.store import Store
from ir.errors import NoReference, UserError
from ir.task import task
from schedule.algorithms import algorithm_of, allowed_algorithms
from schedule.measurement import Candidate, Measurement
from schedule.space import Space
from search.annealing import AnnealingSearch
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.genetic import GeneticSearch
from search.learner import Learner
from search.random_search import RandomSearch
from search.tuner import TuneOptions, Tuner

OTHER = task("matmul:m=40,n=48,k=64,epilogue=bias+relu", count=3)


def evolution(sketches, scorer, rng):
    return EvolutionarySearch(sketches, scorer, rng, EvolutionOptions(population=128, generations=2))


def tune(tasks=(TASK,), runner=None, store=None, search=RandomSearch, model=None, watch=lambda progress: None, versions=None, **options):
    runner = runner or FakeRunner()
    learner = Learner(model or RandomModel(0), TARGET)
    options = TuneOptions(**{"max_trials": 40, "batch": 16, **options})
    tuner = Tuner(
        tasks, TARGET, runner, learner, search, store, options, machine={"cpu_model": "none"}, versions={"tilewright": "0"} | (versions or {}), watch=watch
    )
    return tuner.run(), runner


def test_the_default_schedule_is_trial_0():
    result, runner = tune()
    assert runner.asked[0] == result.tasks[0].default
    assert result.tasks[0].best_seconds <= result.tasks[0].default_seconds


@pytest.mark.parametrize("limits", [{"max_trials": 37}, {"max_trials": None, "max_trials_per_task": 19}, {"max_trials": 37, "max_trials_per_task": 25}])
def test_budgets_hold_exactly(limits):
    result, runner = tune((TASK, OTHER), **limits)
    per_task = [state.n_trials for state in result.tasks]
    assert sum(per_task) == len(runner.asked) == (limits["max_trials"] or 38)
    assert max(per_task) <= limits.get("max_trials_per_task", 37)
    assert min(per_task) >= 12


def test_same_seed_same_trials():
    assert tune(seed=5)[1].asked == tune(seed=5)[1].asked != tune(seed=6)[1].asked


def test_every_trial_is_recorded_and_the_winner_marked(tmp_path):
    with Store(tmp_path / "r.db") as store:
        result, _ = tune(store=store, model=CostModel(), search=evolution)
        trials = [record for record in store.records() if record.kind == "trial"]
        finals = [record for record in store.records() if record.kind == "final"]
        assert [record.trial for record in trials] == list(range(40))
        assert [record.kept for record in finals].count(True) == 1
        kept = next(record for record in finals if record.kept)
        assert (kept.sketch, kept.row) == (result.tasks[0].best.sketch, result.tasks[0].best.row)
        rounds = store.rounds()
        assert [each.n_measured for each in rounds] == [16, 16, 8]
        assert rounds[0].pairwise_accuracy is None  # nothing was learned yet
        assert all(0 <= each.pairwise_accuracy <= 1 for each in rounds[1:])


def test_resuming_measures_nothing_twice_and_counts_what_is_there(tmp_path):
    with Store(tmp_path / "r.db") as store:
        _, first = tune(store=store)
        result, second = tune(store=store, max_trials=60)
        assert len(second.asked) == 20
        assert not set(first.asked) & set(second.asked)
        assert result.tasks[0].n_trials == 60
        result, third = tune(store=store, max_trials=60)
        assert third.asked == []
        assert result.tasks[0].best is not None
        assert result.tasks[0].default_seconds is not None


def test_algorithms_that_are_left_out(tmp_path):
    """They are not tried, their records do not count, and they stay the ones to use for whoever leaves out none."""
    windows = task("conv2d:c=32,h=12,w=12,k=32,r=3,s=3,pad=1")
    with Store(tmp_path / "r.db") as store:
        everything, first = tune((windows,), store=store, max_trials=30)
        assert {algorithm_of(candidate.sketch) for candidate in first.asked} == {"direct", "winograd2", "winograd4"}
        n_direct = sum(algorithm_of(candidate.sketch) == "direct" for candidate in first.asked)
        result, second = tune((windows,), store=store, max_trials=30, algorithms=allowed_algorithms(no_winograd=True))
        (state,) = result.tasks
        assert state.n_resumed == n_direct
        assert len(second.asked) == 30 - n_direct
        assert {algorithm_of(candidate.sketch) for candidate in (*second.asked, *state.measured, state.best)} == {"direct"}
        assert [record.sketch for record in store.records() if record.kept] == [everything.tasks[0].best.sketch]
        (direct,) = store.best(algorithms=("direct",)).values()
        assert algorithm_of(direct.sketch) == "direct"
        assert min(store.best().values(), key=lambda record: record.best_seconds).best_seconds <= direct.best_seconds


def test_final_measurements_without_some_algorithms_are_not_made_again(tmp_path):
    windows, left_out = task("conv2d:c=32,h=12,w=12,k=32,r=3,s=3,pad=1"), {"algorithms": allowed_algorithms(no_winograd=True)}
    with Store(tmp_path / "r.db") as store:
        tune((windows,), store=store, max_trials=30)
        first, _ = tune((windows,), store=store, max_trials=30, **left_out)
        n_records = len(store.records())
        again, runner = tune((windows,), store=store, max_trials=30, **left_out)
        assert (runner.asked, len(store.records())) == ([], n_records)
        assert again.tasks[0].best == first.tasks[0].best
        more, _ = tune((windows,), store=store, max_trials=31, **left_out)
        assert more.tasks[0].n_trials == 31
        assert len(store.records()) > n_records + 1  # what is new is judged again


def test_a_faster_trial_than_what_was_kept_is_the_best_at_once(tmp_path):
    """Also where the run ends before it is measured again: what `best_of` says of the records is what the run says."""
    seen = []
    with Store(tmp_path / "r.db") as store:
        before, _ = tune(store=store, max_trials=16)
        result, _ = tune(store=store, max_trials=400, runner=FakeRunner(interrupt_after=300), watch=lambda progress: seen.append(progress.state.best_seconds))
        assert result.interrupted
        (recorded,) = store.best().values()
        (state,) = result.tasks
        assert (state.best.sketch, state.best.row) == (recorded.sketch, recorded.row)
        assert seen[-1] == state.best_seconds < before.tasks[0].best_seconds


def test_a_winner_that_nobody_checked_is_measured_and_checked_again(tmp_path):
    """The runner that checks finds the fastest trial of the run that did not to be wrong."""
    with Store(tmp_path / "r.db") as store:
        unchecked, _ = tune(store=store, versions={UNCHECKED: "yes"})
        wrong = unchecked.tasks[0].best
        again, runner = tune(store=store, versions={UNCHECKED: "yes"})
        assert (runner.asked, again.tasks[0].best) == ([], wrong)
        n_records = len(store.records())
        checked, _ = tune(store=store, runner=FakeRunner(lambda candidate: "wrong" if candidate == wrong else ""))
        assert len(store.records()) > n_records
        assert checked.tasks[0].best not in (None, wrong)
        (best,) = store.best().values()
        assert (best.sketch, best.row) == (checked.tasks[0].best.sketch, checked.tasks[0].best.row)


def test_what_turns_out_to_be_wrong_makes_way_for_the_next_fastest(tmp_path):
    with Store(tmp_path / "r.db") as store:
        unchecked, _ = tune(store=store, versions={UNCHECKED: "yes"})
        measured = unchecked.tasks[0].measured
        ranked = sorted(measured, key=measured.__getitem__)
        checked, _ = tune(store=store, runner=FakeRunner(lambda candidate: "wrong" if candidate in ranked[:8] else ""))
        assert checked.tasks[0].best == ranked[8]


def test_a_run_that_goes_on_knows_what_turned_out_to_be_wrong(tmp_path):
    """It takes it for a failure, breeds from others, and does not measure it again."""
    with Store(tmp_path / "r.db") as store:
        unchecked, _ = tune(store=store, versions={UNCHECKED: "yes"})
        wrong = unchecked.tasks[0].best
        tune(store=store, runner=FakeRunner(lambda candidate: "wrong" if candidate == wrong else ""))
        (state,) = tune(store=store, max_trials=60)[0].tasks
        assert (state.measured[wrong], state.failures) == (math.inf, {"wrong": 1})
        finals = [record for record in store.records() if record.kind == "final" and record.round == state.round]
        assert finals
        assert wrong not in [Candidate(record.sketch, record.row) for record in finals]


def test_what_had_too_little_time_is_tried_again_with_more(tmp_path):
    def slow(candidate):
        return "timeout" if sum(candidate.row) % 2 else ""

    with Store(tmp_path / "r.db") as store:
        hasty, _ = tune(store=store, runner=FakeRunner(slow), versions={TIMEOUT: "0.2"})
        n_stopped = hasty.tasks[0].failures["timeout"]
        assert 0 < n_stopped < 40
        for seconds in ("0.2", "0.1"):
            again, runner = tune(store=store, versions={TIMEOUT: seconds})
            assert (runner.asked, again.tasks[0].failures) == ([], {"timeout": n_stopped})
        patient, runner = tune(store=store, versions={TIMEOUT: "10"})
        assert (len(runner.asked), patient.tasks[0].n_trials, patient.tasks[0].failures) == (n_stopped, 40, {})


def test_where_all_turn_out_to_be_wrong_there_is_no_best(tmp_path):
    with Store(tmp_path / "r.db") as store:
        tune(store=store, versions={UNCHECKED: "yes"}, max_trials=8)
        checked, _ = tune(store=store, max_trials=8, runner=FakeRunner(lambda candidate: "wrong"))
        assert checked.tasks[0].best is None


def test_nobody_checked_and_some_algorithms_left_out(tmp_path):
    """Where the records hold schedules by others none is marked as kept; the next run checks all the same."""
    windows, left_out = task("conv2d:c=32,h=12,w=12,k=32,r=3,s=3,pad=1"), {"algorithms": allowed_algorithms(no_winograd=True)}
    with Store(tmp_path / "r.db") as store:
        tune((windows,), store=store, max_trials=60)
        unchecked, _ = tune((windows,), store=store, max_trials=60, versions={UNCHECKED: "yes"}, **left_out)
        wrong = unchecked.tasks[0].best
        checked, _ = tune((windows,), store=store, max_trials=60, runner=FakeRunner(lambda candidate: "wrong" if candidate == wrong else ""), **left_out)
        assert checked.tasks[0].has_others
        assert checked.tasks[0].best not in (None, wrong)


class Optimistic(FakeRunner):
    """To which every trial seems to take half of the time that it takes when it is measured again."""

    share = 0.5

    def remeasure(self, task, candidates, rounds, **options):
        self.share = 1.0
        return super().remeasure(task, candidates, rounds)

    def _measure(self, task, candidate):
        return Measurement(tuple(self.share * seconds for seconds in super()._measure(task, candidate).seconds))


def test_what_an_earlier_run_kept_is_measured_again_beside_what_is_new(tmp_path):
    """However fast the new trials seem to be: a slower schedule does not take its place."""
    with Store(tmp_path / "r.db") as store:
        before, _ = tune(store=store, max_trials=200)
        after, _ = tune(store=store, max_trials=232, runner=Optimistic())
        assert len(after.tasks[0].final) > len(before.tasks[0].final)
        assert after.tasks[0].best_seconds <= before.tasks[0].best_seconds
        (best,) = store.best().values()
        assert best.best_seconds == after.tasks[0].best_seconds


def test_what_a_run_tells_is_what_the_records_tell(tmp_path):
    """Of several runs, each of which kept something else: what one of them kept may be the fastest again."""

    class Noisy(FakeRunner):
        rng = np.random.default_rng(3)

        def remeasure(self, task, candidates, rounds, **options):
            return [Measurement(tuple(self.rng.uniform(1.0, 2.0, 4).tolist())) for _ in candidates]

    kept = set()
    with Store(tmp_path / "r.db") as store:
        for n in range(1, 9):
            result, _ = tune(store=store, max_trials=32 * n, runner=Noisy())
            (state,) = result.tasks
            (best,) = store.best().values()
            assert (Candidate(best.sketch, best.row), best.best_seconds) == (state.best, state.best_seconds)
            kept.add(state.best)
    assert len(kept) > 2


def test_the_winner_is_chosen_by_some_rounds_and_told_by_the_others(tmp_path):
    """One that was lucky in a round is chosen, and then found to be slower than the default schedule."""

    class Lucky(FakeRunner):
        def remeasure(self, task, candidates, rounds, **options):
            default, *others = sorted(candidates, key=lambda candidate: candidate != self.asked[0])
            seconds = {default: (1.0, 1.0, 2.0, 2.0), others[0]: (1e-9, 9.0, 8.0, 9.0)}
            return [Measurement(seconds.get(candidate, (3.0, 3.0, 3.0, 3.0))) for candidate in candidates]

    with Store(tmp_path / "r.db") as store:
        result, runner = tune(store=store, runner=Lucky())
        (state,) = result.tasks
        assert state.best == state.default == runner.asked[0]
        assert state.best_seconds == 2.0
        finals = [record for record in store.records() if record.kind == "final"]
        assert {record.seconds for record in finals} >= {(2.0, 2.0), (8.0, 9.0)}
        assert [record.seconds for record in finals if record.kept] == [(2.0, 2.0)]


def test_both_halves_of_the_rounds_have_both_orders(tmp_path):
    """Of two that are alike the one that is measured last in a round is not told to be slower."""

    class Ordered(FakeRunner):
        def remeasure(self, task, candidates, rounds, **options):
            forward = [1.0 + place / 8 for place in range(len(candidates))]
            return [Measurement((here, there, here, there, here)) for here, there in zip(forward, reversed(forward), strict=True)]

    with Store(tmp_path / "r.db") as store:
        result, _ = tune(store=store, runner=Ordered())
        (state,) = result.tasks
        told = [measurement.best_seconds for measurement in state.final.values()]
        assert len(told) > 2
        assert told == told[::-1]


def test_a_final_measurement_that_fails_is_told_and_made_again(tmp_path):
    """What was kept before stays so."""

    class Full(FakeRunner):
        def remeasure(self, task, candidates, rounds, **options):
            return [Measurement((), "memory", "no room for all")] * len(candidates)

    with Store(tmp_path / "r.db") as store:
        before, _ = tune(store=store)
        after, _ = tune(store=store, max_trials=300, runner=Full())
        (state,) = after.tasks
        assert not state.is_judged
        assert state.final_failures == {"memory": sum(record.failure == "memory" for record in store.records())}
        assert state.messages == {"memory": "no room for all"}
        (best,) = store.best().values()
        assert best.best_seconds <= before.tasks[0].best_seconds
        n_records = len(store.records())
        again, runner = tune(store=store, max_trials=300)
        assert (runner.asked, again.tasks[0].is_judged) == ([], True)
        assert len(store.records()) > n_records


def test_what_another_version_kept_is_measured_again(tmp_path):
    with Store(tmp_path / "r.db") as store:
        tune(store=store)
        n_records = len(store.records())
        tune(store=store)
        assert len(store.records()) == n_records
        tune(store=store, versions={"llvmlite": "other"})
        assert len(store.records()) > n_records


def test_what_there_is_no_time_to_judge_the_next_run_judges(tmp_path, monkeypatch):
    monkeypatch.setattr("search.tuner.LEAST_SECONDS", 0.0)

    class Slow(FakeRunner):
        def __call__(self, task, candidates, *, deadline=None, on_result=None):
            time.sleep(0.05)
            return super().__call__(task, candidates, on_result=on_result)

    with Store(tmp_path / "r.db") as store:
        result, _ = tune(store=store, runner=Slow(), max_trials=None, max_seconds=0.02)
        (state,) = result.tasks
        assert (state.best is not None, state.is_judged) == (True, False)
        assert not any(record.kind == "final" for record in store.records())
        again, _ = tune(store=store, max_trials=state.n_trials)
        assert again.tasks[0].is_judged


def test_a_small_budget_leaves_no_task_without_a_trial():
    result, _ = tune((TASK, OTHER, task("matmul:m=8,n=24,k=40")), max_trials=7)
    assert sorted(state.n_trials for state in result.tasks) == [2, 2, 3]
    assert all(state.default in state.measured for state in result.tasks)


def test_trial_0_is_the_default_schedule_alone(tmp_path):
    """Also where a campaign had measured something before."""
    with Store(tmp_path / "r.db") as store:
        tune(store=store)
        others = [replace(record, kind="sample") for record in store.records() if record.kind == "trial" and record.trial]
    with Store(tmp_path / "s.db") as store:
        store.append(others)
        result, _ = tune(store=store, max_trials=60)
        first = [record for record in store.records() if record.kind == "trial" and record.trial == 0]
        assert [(record.sketch, record.row) for record in first] == [(result.tasks[0].default.sketch, result.tasks[0].default.row)]


def test_rows_that_are_in_no_space_are_left_alone(tmp_path):
    """As another version may have recorded, or somebody made up."""
    with Store(tmp_path / "r.db") as store:
        tune(store=store, max_trials=16)
        known = store.records()
        made_up = [replace(known[1], row=(*known[1].row[:at], 10**6, *known[1].row[at + 1 :]), seconds=(1e-9,)) for at in range(3)]
        store.append(made_up)
        result, runner = tune(store=store, max_trials=32)
        assert (len(runner.asked), result.tasks[0].n_trials) == (16, 32)
        assert result.tasks[0].best_seconds > 1e-9
        assert with_meaning(store.records(), result.tasks[0].sketches) == [record for record in store.records() if record not in made_up]


class NoReferenceFor(FakeRunner):
    """Of one task nobody can tell the right result."""

    def __call__(self, task, candidates, **options):
        if task.key == OTHER.key:
            raise NoReference(f"the right result of {task.key} cannot be computed")
        return super().__call__(task, candidates, **options)


def test_a_task_whose_right_result_is_not_known_is_given_up_alone(tmp_path):
    with Store(tmp_path / "r.db") as store:
        result, runner = tune((OTHER, TASK), NoReferenceFor(), store)
        given_up, tuned = result.tasks
        assert (given_up.n_trials, given_up.best) == (0, None)
        assert given_up.given_up == f"the right result of {OTHER.key} cannot be computed"
        assert tuned.n_trials == len(runner.asked) == 40
        assert {record.task for record in store.records() if record.kept} == {TASK.key}


def test_resuming_learns_from_the_records(tmp_path):
    with Store(tmp_path / "r.db") as store:
        tune(store=store, model=CostModel(), search=evolution)
        tune(store=store, model=CostModel(), search=evolution, max_trials=56)
        assert store.rounds()[-1].pairwise_accuracy is not None


def test_an_interrupt_keeps_the_best_so_far(tmp_path):
    with Store(tmp_path / "r.db") as store:
        result, _ = tune(runner=FakeRunner(interrupt_after=21), store=store)
        assert result.interrupted
        assert result.tasks[0].n_trials == 21 == len(store.records())
        assert result.tasks[0].best is not None


def test_failures_are_counted_with_class_and_message():
    result, _ = tune(runner=FakeRunner(lambda candidate: "crash" if candidate.row[0] % 16 else ""), max_trials=30)
    state = result.tasks[0]
    assert state.n_trials == 30
    assert state.failures["crash"] == sum(not np.isfinite(s) for s in state.measured.values())
    assert set(state.messages) <= {"crash"}


def test_a_task_whose_every_trial_fails_has_no_best():
    result, _ = tune((TASK, OTHER), runner=FakeRunner(lambda candidate: "timeout"), model=CostModel(), search=evolution)
    for state in result.tasks:
        assert state.best is None
        assert state.best_seconds is None
        assert state.failures["timeout"] == state.n_trials > 0


@pytest.mark.parametrize("search", [RandomSearch, evolution])
def test_a_used_up_space_ends_the_run(search):
    """All of it is measured, and the task's clock stands still from then on."""
    tiny = task("matmul:m=1,n=1,k=5")
    every = [np.unique(sketch.space.sample(2000, np.random.default_rng(0)), axis=0) for sketch in known_sketches(tiny)]
    for seed in range(4):
        result, runner = tune((tiny,), max_trials=10_000, search=search, seed=seed)
        assert result.tasks[0].n_trials == len(runner.asked) == sum(map(len, every))
        assert result.tasks[0].round_started is None


def test_the_time_of_a_search_is_its_own(tmp_path):
    """Fits come before it and features after it, and the learner counts those; before the first batch there is nothing to fit to."""

    class Slow(RandomSearch):
        def ask(self, n, explore=False):
            time.sleep(0.02)
            return super().ask(n)

    class SlowModel(RandomModel):
        def fit(self, X, y, groups):
            time.sleep(0.2)
            return self

    with Store(tmp_path / "r.db") as store:
        tune(store=store, search=Slow, model=SlowModel(0))
        first, *others = store.rounds()
        assert all(each.search_seconds >= 0.02 for each in (first, *others))
        assert all(each.model_seconds >= 0.2 for each in others)


def test_progress_is_reported_after_every_trial_and_before_the_final_measurement():
    seen = []
    result, _ = tune(watch=seen.append)
    assert [(progress.n_trials, progress.n_failed) for progress in seen] == [*((n, 0) for n in range(1, 41)), (40, 0)]
    assert [progress.trial and progress.trial[0] for progress in seen] == [*result.tasks[0].measured, None]


def test_the_learned_search_beats_random_at_equal_trials():
    def best(search, seed):
        return tune(search=search, model=CostModel(), max_trials=96, seed=seed)[0].tasks[0].best_seconds

    learned = [best(evolution, seed) for seed in range(2)]
    chance = [best(RandomSearch, seed) for seed in range(2)]
    assert np.mean(learned) < np.mean(chance)


class Lost(RandomModel):
    """Orders candidates the wrong way round."""

    def predict(self, X):
        return -RooflineModel().predict(X)


def test_a_search_explores_where_the_model_is_worse_than_chance():
    """Scores against everything that was measured, after three batches."""
    asked = []

    class Watched(RandomSearch):
        def ask(self, n, explore=False):
            asked.append(explore)
            return super().ask(n)

    class Peaks(FakeRunner):
        def _measure(self, task, candidate):
            sketch = known_sketches(task)[0]
            share = RooflineModel().predict(FeatureExtractor(sketch, TARGET)(np.array([candidate.row])))[0]
            return Measurement((1.0 / float(share),))

    tune(runner=Peaks(), model=Lost(0), search=Watched, max_trials=96)
    assert asked[:4] == [False] * 4  # the first batch has no model, three are needed to tell
    assert asked[4:] == [True, True]


@pytest.mark.parametrize("search", [RandomSearch, AnnealingSearch, GeneticSearch, evolution])
def test_where_valid_rows_are_too_rare_the_default_schedule_is_what_there_is(search, monkeypatch):
    monkeypatch.setattr(Space, "sample", lambda space, n, rng: np.empty((0, len(space.columns)), dtype=np.int64))
    result, runner = tune(search=search, model=CostModel(n_estimators=2))
    (state,) = result.tasks
    assert runner.asked[0] == state.default
    assert state.best is not None
    if search in (RandomSearch, AnnealingSearch):  # the others breed from what was measured
        assert runner.asked == [state.default]


def test_a_task_too_large_to_be_packed_is_named():
    of = task("conv2d:c=8,h=3700,w=3700,k=8,r=3,s=3,dilation=1200,pad=1")
    with pytest.raises(UserError, match=rf"{re.escape(of.key)}: no sizes of tiles are known"):
        tune((of,))


def test_where_time_is_short_every_task_gets_some_trials(monkeypatch):
    """On a clock of our own, on which a trial takes a second: of five tasks and fifty seconds the first takes a whole batch, the others share the rest."""
    now = [0.0]

    class Slow(FakeRunner):
        def _measure(self, task, candidate):
            now[0] += 1.0
            return super()._measure(task, candidate)

    monkeypatch.setattr("search.tuner.time.monotonic", lambda: now[0])
    tasks = [task(f"matmul:m={m},n=48,k=64") for m in range(8, 13)]
    result, _ = tune(tasks, Slow(), max_trials=None, max_seconds=50.0)
    assert min(state.n_trials for state in result.tasks) >= 4
