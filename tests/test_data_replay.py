import re
from pathlib import Path

import numpy as np
import pytest
from data_samples import MACHINE, TASK, failed, random_records, record

from data.record import Record, machine_id
from data.replay import UNRECORDED, ReplayRunner
from data.store import Store
from ir.errors import UserError
from ir.task import task
from schedule.measurement import Candidate, Measurement
from schedule.rules import sketches
from schedule.sketch import Sketch
from schedule.target import Target

TARGET = Target.from_json({name: value for name, value in MACHINE.items() if name != "cpu_model"})
PROBLEM = task(TASK)


def recorded(sketch: Sketch, n: int, seed: int) -> list[Record]:
    """Random trials of random rows of a sketch."""
    columns = sketch.space.names
    X = sketch.space.sample(n, np.random.default_rng(seed))
    return [record(trial=i, sketch=sketch.name, columns=columns, row=tuple(row), seconds=(1e-6 * (i + 1),)) for i, row in enumerate(X)]


def test_answers_what_was_recorded() -> None:
    trials = random_records(40, seed=1)
    runner = ReplayRunner(trials)
    fastest = {trial.row: trial for trial in sorted(trials, key=lambda trial: -trial.best_seconds)}
    candidates = [Candidate("tile_n", row) for row in fastest]
    measurements = runner(PROBLEM, candidates)
    assert measurements == [Measurement(trial.seconds, trial.failure, trial.message) for trial in fastest.values()]
    assert runner(PROBLEM, candidates[::-1]) == measurements[::-1]
    assert any(not measurement.ok for measurement in measurements)
    assert runner(PROBLEM, []) == []


def test_what_was_not_recorded_fails_with_its_own_class() -> None:
    runner = ReplayRunner([record()])
    for candidate in (Candidate("tile_n", (9, 9)), Candidate("tile_m", record().row)):
        (measurement,) = runner(PROBLEM, [candidate])
        assert measurement == Measurement((), UNRECORDED, f"no record of sketch {candidate.sketch}, row {list(candidate.row)}")


def test_numpy_rows_are_found() -> None:
    (measurement,) = ReplayRunner([record()])(PROBLEM, [Candidate("tile_n", tuple(np.array([4, 32])))])
    assert measurement.seconds == record().seconds


def test_the_fastest_record_of_a_candidate_answers() -> None:
    trials = [failed("timeout"), record(seconds=(2.0,)), record(seconds=(1.0, 3.0)), record(seconds=(1.5,), kind="final"), failed()]
    for order in (trials, trials[::-1]):
        (measurement,) = ReplayRunner(order)(PROBLEM, [Candidate("tile_n", record().row)])
        assert measurement == Measurement((1.0, 3.0))


def test_repeats_do_not_answer() -> None:
    """Of two draws the faster would flatter the few candidates that have two."""
    for order in ([record(), record(kind="repeat", seconds=(1e-9,))], [record(kind="repeat", seconds=(1e-9,)), record()]):
        (measurement,) = ReplayRunner(order)(PROBLEM, [Candidate("tile_n", record().row)])
        assert measurement.seconds == record().seconds


def test_a_search_can_be_kept_to_the_recorded_rows() -> None:
    sketch, *others = sketches(PROBLEM.program, TARGET)
    trials = recorded(sketch, 20, seed=2)
    runner = ReplayRunner([*trials, *trials[:3], failed(sketch=sketch.name, columns=trials[0].columns, row=trials[0].row)])
    X = runner.population(sketch)
    assert X.dtype == np.int64
    assert X.tolist() == [list(row) for row in dict.fromkeys(trial.row for trial in trials)]
    assert sketch.space.valid(X).all()
    measurements = runner(PROBLEM, [Candidate(sketch.name, tuple(row)) for row in X])
    assert all(measurement.ok for measurement in measurements)
    for other in others:
        assert runner.population(other).shape == (0, len(other.space.columns))


def test_a_sketch_with_other_columns_is_refused() -> None:
    sketch = sketches(PROBLEM.program, TARGET)[0]
    runner = ReplayRunner([record(sketch=sketch.name)])
    with pytest.raises(UserError, match=f"sketch {sketch.name} of matmul.* has columns .*, its records have m.register n.register"):
        runner.population(sketch)


def test_records_of_one_sketch_have_one_meaning() -> None:
    with pytest.raises(UserError, match=r"sketch tile_n of .* have different columns: m\.register n\.register and n\.register m\.register"):
        ReplayRunner([record(), record(columns=("n.register", "m.register"))])


@pytest.mark.parametrize(
    ("trials", "words"),
    [
        ([], "found none"),
        ([record(), record(task="other")], f"found {TASK} on machine {machine_id(MACHINE)} with 2 threads; other on machine"),
        ([record(), record(threads=1)], f"; {TASK} on machine {machine_id(MACHINE)} with 1 threads"),
        ([record(), record(machine={"cpu": "other"})], f"on machine {machine_id({'cpu': 'other'})} with"),
    ],
)
def test_only_comparable_records_are_replayed(trials: list[Record], words: str) -> None:
    with pytest.raises(UserError, match=f"a replay needs the records of one task, machine and number of threads; .*{re.escape(words)}"):
        ReplayRunner(trials)


def test_records_of_another_task_are_refused() -> None:
    runner = ReplayRunner([record()])
    with pytest.raises(UserError, match=r"the records to replay are of matmul:m=64.*, not of matmul:m=8,"):
        runner(task("matmul:m=8,n=8,k=8"), [])


def test_replays_a_records_file(tmp_path: Path) -> None:
    with Store(tmp_path / "records.db") as store:
        store.append([record(), record(task="other")])
        runner = ReplayRunner(store.records(PROBLEM.key))
    assert runner(PROBLEM, [Candidate("tile_n", record().row)]) == [Measurement(record().seconds)]
