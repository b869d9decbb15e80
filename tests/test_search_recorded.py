"""Learned search against random search on real recorded measurements: no hardware, no clock, no noise."""

from pathlib import Path

import numpy as np

from costmodel.model import CostModel, RandomModel
from data.exchange import read
from data.replay import ReplayRunner
from ir.task import task
from schedule.measurement import Candidate
from schedule.rules import sketches
from schedule.target import Target
from search.learner import Learner, throughput
from search.recorded import RecordedSearch

RECORDS = Path(__file__).parent / "golden" / "conv2d_trials.parquet"


def trials_to_find(n_best, model, seed, batch=16):
    """Trials until `n_best` of the ten fastest recorded candidates were measured."""
    records = [record for record in read(RECORDS)[0] if record.kind == "trial"]
    of = task(records[0].task)
    target = Target.from_json({**{k: v for k, v in records[0].machine.items() if k != "cpu_model"}, "threads": records[0].threads})
    known = sketches(of.program, target)
    runner = ReplayRunner(records)
    learner = Learner(model, target)
    search = RecordedSearch(known, learner.scorer(of), np.random.default_rng(seed), {sketch.name: runner.population(sketch) for sketch in known})
    fastest = {Candidate(r.sketch, r.row) for r in sorted(records, key=lambda record: record.best_seconds)[:10]}
    n = n_found = 0
    while True:
        candidates = search.ask(batch)
        for candidate in candidates:
            n += 1
            n_found += candidate in fastest
            if n_found == n_best:
                return n
        throughputs = [throughput(of, measurement.best_seconds) for measurement in runner(of, candidates)]
        search.tell(candidates, throughputs)
        learner.observe(of, known, candidates, throughputs)
        learner.fit()


def test_learned_search_needs_fewer_recorded_trials_than_random():
    learned = [trials_to_find(5, CostModel(seed=seed), seed) for seed in range(4)]
    chance = [trials_to_find(5, RandomModel(seed), seed) for seed in range(4)]
    assert np.mean(learned) < 0.6 * np.mean(chance)


def test_the_same_seed_replays_the_same_run():
    assert trials_to_find(3, CostModel(seed=1), 1) == trials_to_find(3, CostModel(seed=1), 1)
