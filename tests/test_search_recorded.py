"""Searches among real recorded measurements: no hardware, no clock, no noise."""

from pathlib import Path

import numpy as np
import pytest

from costmodel.model import RandomModel
from data.exchange import read
from data.replay import ReplayRunner
from ir.task import task
from schedule.measurement import Candidate
from schedule.rules import sketches
from search.annealing import AnnealingSearch
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.learner import Learner, throughput
from search.recorded import recorded_sketches

RECORDS = Path(__file__).parent / "golden" / "conv2d_trials.parquet"


def recorded():
    """(records, their task, the machine, sketches of which the recorded rows are the spaces)"""
    records = [record for record in read(RECORDS)[0] if record.kind == "trial"]
    of, target = task(records[0].task), records[0].target
    known = sketches(of.program, target)
    runner = ReplayRunner(records)
    return records, of, target, recorded_sketches(known, {sketch.name: runner.population(sketch) for sketch in known})


def small_evolution(known, scorer, rng):
    return EvolutionarySearch(known, scorer, rng, EvolutionOptions(population=256, generations=2, elites=16))


def unlearned(target, seed):
    return Learner(RandomModel(seed), target)


def trials_to_find(n_best, make_learner, seed, make_search=small_evolution, batch=16):
    """Trials until `n_best` of the ten fastest recorded candidates were measured."""
    records, of, target, known = recorded()
    runner = ReplayRunner(records)
    learner = make_learner(target, seed)
    search = make_search(known, learner.scorer(of), np.random.default_rng(seed))
    fastest = {Candidate(r.sketch, r.row) for r in sorted(records, key=lambda record: record.best_seconds)[:10]}
    n = n_found = 0
    while True:
        candidates = search.ask(batch)
        assert candidates, f"{n} of {len(records)} recorded rows were asked for, and no other"
        for candidate in candidates:
            n += 1
            n_found += candidate in fastest
            if n_found == n_best:
                return n
        measured = runner(of, candidates)
        assert all(measurement.failure != "unrecorded" for measurement in measured)
        throughputs = [throughput(of, measurement.best_seconds) for measurement in measured]
        search.tell(candidates, throughputs)
        learner.observe(of, known, candidates, throughputs)
        learner.fit(of)


def test_learned_search_needs_fewer_recorded_trials_than_random():
    learned = [trials_to_find(5, Learner.from_scratch, seed) for seed in range(4)]
    chance = [trials_to_find(5, unlearned, seed) for seed in range(4)]
    assert np.mean(learned) < 0.6 * np.mean(chance)


def test_other_searches_run_on_records_too():
    assert trials_to_find(3, Learner.from_scratch, 0, AnnealingSearch) < len(recorded()[0])


def test_the_same_seed_replays_the_same_run():
    assert trials_to_find(3, Learner.from_scratch, 1) == trials_to_find(3, Learner.from_scratch, 1)


@pytest.mark.parametrize("breed", ["sample", "mutate", "crossover"])
def test_a_recorded_space_holds_recorded_rows_alone(breed):
    _, _, _, known = recorded()
    space = known[0].space
    rng = np.random.default_rng(0)
    X = space.sample(200, rng)
    children = {"sample": lambda: X, "mutate": lambda: space.mutate(X, rng), "crossover": lambda: space.crossover(X, X[::-1], rng)}[breed]()
    there = {tuple(row) for row in space.recorded.tolist()}
    assert {tuple(row) for row in children.tolist()} <= there
    assert space.valid(children).all()
    assert tuple(known[0].default_row().tolist()) in there
    if breed != "sample":
        assert not (children == X).all(axis=1).any()


def test_a_mutant_becomes_a_row_near_its_parent():
    _, _, _, known = recorded()
    space = known[0].space
    rng = np.random.default_rng(1)
    X = space.sample(300, rng)
    changed = lambda A: np.mean((A != X).sum(axis=1))  # noqa: E731
    assert changed(space.mutate(X, rng)) < 0.8 * changed(X[rng.permutation(len(X))])


def test_neighbours_are_recorded_rows_near_the_row():
    _, _, _, known = recorded()
    space = known[0].space
    there = {tuple(row) for row in space.recorded.tolist()}
    everything = np.mean([(space.recorded != row).sum(axis=1).mean() for row in space.recorded[:20]])
    changed = []
    for row in space.recorded[:20]:
        near = space.neighbours(row)
        assert {tuple(each) for each in near.tolist()} <= there - {tuple(row.tolist())}
        assert 0 < len(near) == len(np.unique(near, axis=0))
        changed.append((near != row).sum(axis=1).mean())
    assert np.mean(changed) < 0.8 * everything


def test_places_of_recorded_rows():
    _, _, _, known = recorded()
    space = known[0].space
    at = np.random.default_rng(0).permutation(len(space.recorded))
    np.testing.assert_array_equal(space.places(space.recorded[at]), at)
