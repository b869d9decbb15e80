"""What every search must do, and what the guided ones must do better."""

from collections import Counter

import numpy as np
import pytest
from search_samples import TARGET, TASK, known_sketches, seconds_of

from costmodel.features import FeatureExtractor
from costmodel.metrics import pairwise_accuracy
from costmodel.model import CostModel
from costmodel.residual import ResidualModel
from costmodel.task_features import TaskFeatures
from ir.task import task
from schedule.measurement import Candidate
from schedule.rules import sketches
from search.annealing import AnnealingOptions, AnnealingSearch
from search.evolution import EvolutionarySearch, EvolutionOptions
from search.genetic import GeneticSearch
from search.learner import LOCAL, Learner
from search.random_search import RandomSearch
from search.strategy import Seen, merge, sample
from search.trust import START_SHARE

SMALL = EvolutionOptions(population=256, generations=3)
MAKERS = {
    "evolutionary": lambda sketches, scorer, rng: EvolutionarySearch(sketches, scorer, rng, SMALL),
    "annealing": lambda sketches, scorer, rng: AnnealingSearch(sketches, scorer, rng, AnnealingOptions(chains=32, steps=16)),
    "genetic": GeneticSearch,
    "random": RandomSearch,
}


def zero(sketch, X):
    return np.zeros(len(X))


def perfect(sketch, X):
    return -seconds_of(sketch, X)


def run(name, scorer, seed, n_rounds=4, batch=16):
    """(candidates in order, their throughputs)"""
    sketches = known_sketches()
    search = MAKERS[name](sketches, scorer, np.random.default_rng(seed))
    by_name = {sketch.name: sketch for sketch in sketches}
    trace, throughputs = [], []
    for _ in range(n_rounds):
        asked = search.ask(batch)
        told = [1 / seconds_of(by_name[c.sketch], np.array([c.row]))[0] for c in asked]
        search.tell(asked, told)
        trace += asked
        throughputs += told
    return trace, throughputs


@pytest.mark.parametrize("name", MAKERS)
class TestContract:
    def test_asks_for_as_many_as_wanted_and_never_twice(self, name):
        trace, _ = run(name, zero, 0)
        assert len(trace) == 64 == len(set(trace))

    def test_candidates_are_valid_rows_of_their_sketch(self, name):
        by_name = {sketch.name: sketch for sketch in known_sketches()}
        for candidate in run(name, zero, 1)[0]:
            space = by_name[candidate.sketch].space
            X = np.array([candidate.row])
            assert space.valid(X).all()
            assert (space.canonical(X) == X).all()

    def test_same_seed_same_candidates(self, name):
        assert run(name, perfect, 2)[0] == run(name, perfect, 2)[0]
        assert run(name, perfect, 2)[0] != run(name, perfect, 3)[0]

    def test_does_not_ask_for_what_it_was_told(self, name):
        told = run(name, zero, 4)[0]
        search = MAKERS[name](known_sketches(), zero, np.random.default_rng(4))
        search.tell(told, [1.0] * len(told))
        assert not set(search.ask(32)) & set(told)


@pytest.mark.parametrize("name", ["evolutionary", "annealing"])
def test_scores_are_followed(name):
    guided = np.mean([max(run(name, perfect, seed)[1]) for seed in range(3)])
    chance = np.mean([max(run("random", perfect, seed, n_rounds=8)[1]) for seed in range(3)])
    assert guided > 1.1 * chance


@pytest.mark.parametrize("name", ["evolutionary", "annealing"])
def test_a_search_that_knows_nothing_draws_at_random(name):
    every = sketches(task("conv2d:n=1,c=64,h=14,w=14,k=64,r=3,s=3,stride=1,pad=1").program, TARGET)
    asked = MAKERS[name](every, zero, np.random.default_rng(0)).ask(24)
    assert len(every) > 1
    assert {candidate.sketch for candidate in asked} == {sketch.name for sketch in every}


def test_children_of_the_best_are_better_than_chance():
    """Though nothing scores them."""
    bred = np.mean([np.mean(run("genetic", zero, seed, n_rounds=12)[1][-64:]) for seed in range(3)])
    chance = np.mean([np.mean(run("random", zero, seed, n_rounds=12)[1][-64:]) for seed in range(3)])
    assert bred > 1.1 * chance


def test_merge_keeps_each_row_once():
    rng = np.random.default_rng(0)
    rows = sample(known_sketches(), 50, rng)
    merged = merge(rows, rows)
    assert all(len(np.unique(X, axis=0)) == len(X) for X in merged.values())
    assert merged.keys() == rows.keys()


def test_elites_are_the_best_and_never_failures():
    sketches = known_sketches()
    rows = sample(sketches, 30, np.random.default_rng(0))
    seen = Seen(sketches)
    candidates = seen.take(rows, {i: np.zeros(len(X)) for i, X in rows.items()}, 30)
    seen.tell(candidates, [float(i) for i in range(len(candidates))])
    elites = seen.elites(5)
    best = {candidates[-1 - i].row for i in range(5)}
    assert {tuple(row) for X in elites.values() for row in X.tolist()} == best
    seen.tell(candidates, [0.0] * len(candidates))
    assert not seen.elites(5)


def test_few_of_a_batch_share_a_register_tile():
    """Though the scores like one tile above all others."""
    (sketch,) = known_sketches()
    columns = list(sketch.register_columns)
    liked = sketch.default_row()[columns]

    def scorer(sketch, X):
        return (X[:, columns] == liked).all(axis=1).astype(float)

    for alike, most in ((3, 3 + 12), (64, 64)):
        options = EvolutionOptions(population=512, epsilon=0.0, alike=alike, equal=64)
        batch = EvolutionarySearch((sketch,), scorer, np.random.default_rng(0), options).ask(64)
        assert len(batch) == 64
        tiles = Counter(tuple(np.array(candidate.row)[columns]) for candidate in batch)
        assert tiles[tuple(liked)] <= most
    assert tiles[tuple(liked)] > 32


def test_few_of_a_batch_share_a_score():
    """Though all that is bred has the best, and differs in what the scores say nothing of."""
    (sketch,) = known_sketches()
    told = sketch.space.names.index("unroll")

    def scorer(sketch, X):
        return X[:, told] + 1e-4 * X[:, 0]

    for equal, least, most in ((2, 1, 2), (64, 12, 12)):
        options = EvolutionOptions(population=512, epsilon=0.0, alike=64, equal=equal)
        batch = EvolutionarySearch((sketch,), scorer, np.random.default_rng(0), options).ask(12)
        n_best = sum(candidate.row[told] == max(sketch.space.columns[told].choices) for candidate in batch)
        assert len(batch) == 12
        assert least <= n_best <= most


def test_where_scores_are_few_a_batch_is_whole():
    (sketch,) = known_sketches()
    search = EvolutionarySearch((sketch,), lambda sketch, X: (X[:, 0] > 8).astype(float), np.random.default_rng(0), EvolutionOptions(epsilon=0.0))
    batch = search.ask(64)
    assert len(set(batch)) == 64
    assert sum(candidate.row[0] > 8 for candidate in batch) > 16


def test_from_scratch_the_roofline_scores_until_something_was_learned_and_has_a_say_afterwards():
    (sketch,) = known_sketches()
    candidates, X, throughputs = batch_of(sketch, 64, 0)
    learner = Learner.from_scratch(TARGET, 0)
    score = learner.scorer(TASK)
    longest, everything = (1 / FeatureExtractor(sketch, TARGET)(X)[:, FeatureExtractor.names.index(f"program.peak_{name}")] for name in ("longest", "sum"))
    share = 1 / (0.9 * longest + 0.1 * everything)
    np.testing.assert_allclose(score(sketch, X), share, rtol=1e-5)
    assert len(np.unique(share)) > 8
    assert learner.quality(TASK, (sketch,), candidates, throughputs) is not None
    learner.observe(TASK, (sketch,), candidates, throughputs)
    learner.fit(TASK)
    learned = score(sketch, X) - share
    assert len(np.unique(learned)) > 8
    assert learner.name == "RooflineModel + ResidualModel"
    assert pairwise_accuracy(score(sketch, X), np.array(throughputs)) > pairwise_accuracy(share, np.array(throughputs))


def test_without_a_prior_nothing_scores_until_something_was_learned():
    (sketch,) = known_sketches()
    candidates, X, throughputs = batch_of(sketch, 64, 0)
    learner = Learner(CostModel(n_estimators=5), TARGET)
    assert not learner.scorer(TASK)(sketch, X).any()
    assert learner.quality(TASK, (sketch,), candidates, throughputs) is None
    learner.observe(TASK, (sketch,), candidates, throughputs)
    learner.fit(TASK)
    assert learner.scorer(TASK)(sketch, X).any()


def test_a_new_task_beside_many_trials_of_another_is_learned_before_its_next_batch():
    (sketch,), new = known_sketches(), task("matmul:m=64,n=96,k=128")
    (of_new,) = known_sketches(new)
    learner = Learner.from_scratch(TARGET, 0)
    candidates, X, throughputs = batch_of(sketch, 400, 0)
    learner.observe(TASK, (sketch,), candidates, throughputs)
    learner.fit(TASK)
    candidates, X, throughputs = batch_of(of_new, 16, 1)
    score = learner.scorer(new)
    before = score(of_new, X)
    learner.observe(new, (of_new,), candidates, throughputs)
    learner.fit(TASK)  # which knows enough of its own
    np.testing.assert_array_equal(score(of_new, X), before)
    learner.fit(new)
    assert pairwise_accuracy(score(of_new, X), np.array(throughputs)) > pairwise_accuracy(before, np.array(throughputs))
    learned = score(of_new, X)
    for seed, is_learned in ((2, False), (3, True)):  # half of what there is of it then
        candidates, _, throughputs = batch_of(of_new, 8, seed)
        learner.observe(new, (of_new,), candidates, throughputs)
        learner.fit(new)
        assert np.array_equal(score(of_new, X), learned) != is_learned


def batch_of(sketch, n, seed):
    """n random candidates, their rows, their throughputs."""
    X = sketch.space.sample(n, np.random.default_rng(seed))
    return [Candidate(sketch.name, tuple(row.tolist())) for row in X], X, list(1.0 / seconds_of(sketch, X))


def test_a_prior_scores_from_the_start_and_what_is_learned_is_added():
    (sketch,) = known_sketches()
    describe = TaskFeatures((sketch,), TARGET)
    _, before, throughputs = batch_of(sketch, 300, 0)
    prior = CostModel(n_estimators=5).fit(describe(sketch, before), np.sqrt(throughputs), np.zeros(300))
    learner = Learner.with_prior(prior, TARGET, 0)
    score = learner.scorer(TASK)
    candidates, X, measured = batch_of(sketch, 64, 1)
    np.testing.assert_array_equal(score(sketch, X), prior.predict(describe(sketch, X)))
    first = learner.quality(TASK, (sketch,), candidates, measured)
    assert first.pairwise_accuracy > 0.6
    learner.observe(TASK, (sketch,), candidates, measured)
    learner.fit(TASK)
    added = score(sketch, X) - prior.predict(describe(sketch, X))
    local = ResidualModel(prior, CostModel(seed=0, **LOCAL)).fit(describe(sketch, X), measured, np.zeros(64)).predict(describe(sketch, X))
    np.testing.assert_allclose(added, START_SHARE * local, atol=1e-6)
    assert learner.quality(TASK, (sketch,), candidates, measured).pairwise_accuracy > first.pairwise_accuracy
    moved = score(sketch, X) - prior.predict(describe(sketch, X))
    assert np.abs(moved).sum() > 1.2 * np.abs(added).sum()  # it was right about this batch, so its share has grown


@pytest.mark.parametrize("name", ["evolutionary", "annealing"])
def test_exploring_trusts_the_scores_less(name):
    (sketch,) = known_sketches()

    def mean_throughput(explore):
        asked = [candidate for seed in range(3) for candidate in MAKERS[name]((sketch,), perfect, np.random.default_rng(seed)).ask(48, explore=explore)]
        return np.mean(1.0 / seconds_of(sketch, np.array([candidate.row for candidate in asked])))

    assert mean_throughput(explore=True) < 0.9 * mean_throughput(explore=False)
