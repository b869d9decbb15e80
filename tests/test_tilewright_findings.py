from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from data.record import Record, Round
from tests import data_samples
from tests.tuning_samples import CONV, MATMUL, batch_round, final, store, trials
from tilewright import findings
from tilewright.history import Section, read_history


@pytest.fixture
def section_of(tmp_path: Path):
    numbers = count()

    def make(records: list[Record], rounds: Sequence[Round] = ()) -> Section:
        return read_history(store(tmp_path / f"{next(numbers)}.db", records, rounds)).sections[0]

    return make


def test_learning_of_one_task(section_of) -> None:
    section = section_of([*trials(4.0, 3.0, None, 2.0, 5.0), data_samples.failed("wrong", task=MATMUL, trial=5, elapsed_seconds=70.0)])
    assert findings.learning(section) == (
        "The fastest schedule was found after 4 of 6 trials (0:04 of 1:10 minutes); 2 of 6 trials failed (1 timeout, 1 wrong)."
    )


def test_learning_of_several_tasks(section_of) -> None:
    section = section_of([*trials(4.0, 3.0, 3.0, 3.0), *trials(4.0, 5.0, 6.0, 2.0, task=CONV)])
    assert findings.learning(section) == (
        "In the median task the fastest schedule came after 75% of its trials; 1 task still gained in the last tenth and may gain from more. "
        "Over all, none of 8 trials failed."
    )


def test_final_measurement_that_was_disturbed_is_said(section_of) -> None:
    records = trials(4.0, 2.0)
    assert "disturbed" not in findings.learning(section_of([*records, final(records[1], 2.3, kept=True)]))
    assert findings.learning(section_of([*records, final(records[1], 5.0, kept=True)])).endswith(
        "Note that the final measurement took 2.5× as long as the fastest trial: one of them was disturbed."
    )


def test_distances(section_of) -> None:
    section = section_of(trials(4.0, 8.0, None, 12.0, 2.0, 3.0, 4.0, None))
    assert findings.distances(section) == (
        "The median candidate of the first batch takes 4.00× as long as the best, that of the last batch 1.50×, the default schedule 2.00×."
    )
    section = section_of([*trials(1.0), *trials(None, None, None, None, 2.0, task=CONV)])
    assert section.tasks[1].n_batches == 2
    assert findings.distances(section).endswith("that of the last batch 1.00×, the default schedule 1.00× (geometric means over tasks).")


def test_model_and_chance(section_of) -> None:
    rounds = [batch_round(0, pairwise_accuracy=0.7, recall_at_k=0.5, top_1=0.8, top_5=1.0), batch_round(1, pairwise_accuracy=0.9, recall_at_k=1.0, top_1=1.0)]
    section = section_of(trials(1.0, 2.0, 4.0, 4.0, 1.0, 1.0, 1.0, 1.0), rounds)
    assert findings.model(section) == (
        "Mean of 2 batches: pairwise accuracy 80% (chance 50%), recall@k 75% (chance 50%), top-1 90% (chance 75%), top-5 100% (chance 100%)."
    )


def test_time(section_of) -> None:
    rounds = [batch_round(i, search_seconds=1.0, build_seconds=2.0, measure_seconds=6.0, model_seconds=1.0, elapsed_seconds=5.0) for i in (0, 1)]
    section = section_of(trials(*[1.0] * 50, elapsed_seconds=25.0), rounds)
    assert findings.time(section) == (
        "Of 0:20 minutes in 2 batches: measure 60%, build 20%, search 10%, model 10%. That is 2.0 trials a second, everything included."
    )


def test_gains(section_of) -> None:
    assert findings.gains(section_of(trials(4e-3, 1e-3))) == "One run takes 4 ms by the default schedule and 1 ms by the best."
    section = section_of([*trials(4e-3, 1e-3), *trials(8e-3, 8e-3, task=CONV)])
    assert [t.key for t in section.compared] == [CONV, MATMUL]
    assert findings.gains(section) == (
        "Each of 2 tasks once, one after another, takes 12 ms by the default schedules and 9 ms by the best. "
        "Single tasks gain from 1.00× to 4.00×, 2.00× in the geometric mean."
    )


def test_counts_are_said_rightly(section_of) -> None:
    assert findings.failed(section_of(trials(1.0))) == "the one trial did not fail"
    assert findings.counted(1, "batch", "batches") == "1 batch"
    assert findings.counted(1234, "batch", "batches") == "1,234 batches"
