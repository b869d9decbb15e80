import json
import math
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest
from data_samples import MACHINE, TASK, batch_round, failed, record, records, rounds
from hypothesis import given

from data.record import Entry, Record, Round, best_by_setting, best_of, canonical_json, default_of, machine_id
from ir.errors import UserError


@pytest.mark.parametrize("entry", [Record, Round])
def test_every_field_is_checked(entry: type[Entry]) -> None:
    assert list(entry.parsers) == [field.name for field in fields(entry)]  # type: ignore[arg-type]


@given(records() | rounds())
def test_json_and_back(entry: Entry) -> None:
    again = type(entry).from_json(json.loads(canonical_json(entry.to_json())))
    assert again == entry
    assert again.key == entry.key
    assert list(entry.to_json()) == list(entry.parsers)


def test_numpy_values_and_lists_are_made_canonical() -> None:
    made = record(row=list(np.array([4, 32])), seconds=list(np.array([2.5e-6, 2.25e-6, 3e-6])), columns=["m.register", "n.register"])
    assert made == record()
    assert made.key == record().key
    assert {type(value) for value in made.row} == {int}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": ""}, "task is empty"),
        ({"row": (1,)}, "row has 1 values for 2 columns"),
        ({"row": (1.0, 2)}, "row holds what is 1.0"),
        ({"columns": ("a", "a")}, "columns hold a name twice"),
        ({"seconds": ()}, "seconds has 0 repeats although failure is ''"),
        ({"failure": "crash"}, "seconds has 3 repeats although failure is 'crash'"),
        ({"seconds": (1.0, 0.0)}, "seconds holds what is 0.0"),
        ({"seconds": (math.nan,)}, "seconds holds what is nan"),
        ({"machine": {"cpu": None}}, "machine holds what is None"),
        ({"threads": 0}, "threads is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"kind": "last"}, "kind is 'last', not one of trial, final"),
        ({"cache": "hot"}, "cache is 'hot'"),
        ({"kept": True}, "kept is true for a trial record"),
        ({"elapsed_seconds": math.inf}, "elapsed_seconds is inf"),
    ],
)
def test_no_invalid_record_exists(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        record(**changes)
    with pytest.raises(UserError, match=re.escape(words)):
        Record.from_json(record().to_json() | changes)


def test_a_round_cannot_fail_more_than_it_measured() -> None:
    with pytest.raises(ValueError, match="n_failed is 4, more than the 3 measured"):
        batch_round(n_measured=3, n_failed=4)


def test_scores_that_cannot_be_judged_are_none() -> None:
    assert batch_round(recall_at_k=np.float64("nan")).recall_at_k is None


def test_missing_and_unknown_fields_are_named() -> None:
    data = record().to_json()
    del data["seconds"]
    with pytest.raises(UserError, match="seconds is missing, speed is unknown; a record has task, sketch"):
        Record.from_json(data | {"speed": 1})


def test_times_of_good_and_failed_trials() -> None:
    good, bad = record(seconds=(3.0, 1.0, 2.5)), failed()
    assert (good.ok, good.best_seconds, good.median_seconds) == (True, 1.0, 2.5)
    assert (bad.ok, bad.best_seconds, bad.median_seconds) == (False, math.inf, math.inf)


def test_records_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        record().threads = 3  # type: ignore[misc]


def test_the_message_of_a_failure_becomes_one_line() -> None:
    assert failed().message == "the worker said crash"
    assert record(seconds=(), failure="build", message="error:\n  expected 'x'\n").message == "error: expected 'x'"


def test_the_machine_id_is_the_same_whatever_the_order_and_the_process() -> None:
    backwards = dict(reversed(MACHINE.items()))
    code = f"from data.record import machine_id; print(machine_id({backwards!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert machine_id(MACHINE) == machine_id(backwards) == other
    assert len(other) == 12
    assert machine_id(MACHINE | {"lanes": 8}) != other
    assert record().setting == (TASK, other, 2)


@pytest.mark.parametrize("changes", [{"row": (4, 31)}, {"trial": 1}, {"seconds": (2.5e-6,)}, {"machine": {"cpu": "x"}}, {"kind": "final"}, {"versions": {}}])
def test_keys_tell_records_apart(changes: dict[str, Any]) -> None:
    assert record(**changes).key != record().key == record().key
    assert len({record(**changes), record(), record()}) == 2


def test_best_is_the_fastest_trial() -> None:
    trials = [record(seconds=(2.0,)), failed(), record(seconds=(1.0, 9.0)), record(seconds=(1.5,))]
    assert best_of(trials) == trials[2]
    assert best_of([failed()]) is None
    assert best_of([]) is None


def test_a_final_measurement_overrules_the_trials_before_it() -> None:
    lucky, default = record(seconds=(1.0,), row=(1, 1)), record(seconds=(2.0,), row=(2, 2))
    final_lucky = record(seconds=(2.5,), row=(1, 1), kind="final")
    final_default = record(seconds=(2.1,), row=(2, 2), kind="final", kept=True)
    session = [default, lucky, final_lucky, final_default]
    assert best_of(session) == final_default
    assert best_of([*session, record(seconds=(1.9, 9.0), row=(4, 4), kind="final")]) == final_default  # lost, in spite of one fast repeat
    later = record(seconds=(2.05,), row=(3, 3))
    assert best_of([*session, record(seconds=(2.2,)), later]) == later
    slower = record(seconds=(3.0,), row=(3, 3), kind="final", kept=True)
    assert best_of([*session, later, slower]) == final_default, "nobody has found it to be slower"
    assert best_of([*session, later, slower, record(seconds=(3.5,), row=(2, 2), kind="final")]) == slower
    assert best_of([*session, later, record(seconds=(3.5,), row=(2, 2), kind="final"), slower]) == slower
    assert best_of([*session, later, record(seconds=(2.3,), row=(2, 2), kind="final")]) == later, "nothing was kept then"


def test_what_turns_out_to_be_wrong_is_not_the_best() -> None:
    kept = record(seconds=(0.5,), row=(1, 1), kind="final", kept=True)
    wrong, later = failed(row=(1, 1), kind="final"), record(seconds=(0.7,), row=(2, 2))
    assert best_of([kept, wrong]) is None
    assert best_of([kept, wrong, later]) == later


@pytest.mark.parametrize(("failure", "stays"), [("memory", True), ("timeout", True), ("crash", False), ("build", False), ("wrong", False)])
def test_what_fails_for_want_of_room_or_time_stays_what_was_kept(failure: str, stays: bool) -> None:
    default = record(seconds=(0.9,), row=(1, 1))
    kept = record(seconds=(0.5,), row=(1, 1), kind="final", kept=True)
    again = failed(row=(1, 1), kind="final", failure=failure)
    assert (best_of([default, kept, again]) == kept) is stays
    assert (default_of([default, kept, again]) == kept) is stays


def test_where_algorithms_are_left_out_the_last_final_measurement_judges() -> None:
    """It marks nothing as kept, for the schedule to use for whoever leaves out none may be another."""
    lucky, other = record(seconds=(1.0,), row=(1, 1)), record(seconds=(1.2,), row=(2, 2), trial=1)
    finals = [record(seconds=(1.3,), row=(2, 2), kind="final", trial=2), record(seconds=(1.25,), row=(1, 1), kind="final", trial=3)]
    assert best_of([lucky, other, *finals], left_out=True) == finals[0], "the winner stands first, whatever luck the others had when all were told"
    assert best_of([lucky, other, *finals]) == lucky
    later = record(seconds=(1.1,), row=(3, 3), trial=2)
    assert best_of([lucky, other, *finals, later], left_out=True) == lucky, "nothing has judged the trials since"
    winograd = record(seconds=(0.1,), row=(9, 9), sketch="winograd2_tile_k")
    (found,) = best_by_setting([lucky, other, winograd, *finals], ("direct",)).values()
    assert found == finals[0]


def test_an_older_tuning_that_is_imported_later_changes_nothing() -> None:
    ours, theirs = (record(seconds=(seconds,), row=(at, at), kind="final", kept=True) for at, seconds in ((1, 0.5), (2, 0.6)))
    assert best_of([ours, theirs]) == best_of([theirs, ours]) == ours


def test_the_default_schedule_is_the_first_trial_of_a_search() -> None:
    """A uniform sample that happens to be number 0 is none."""
    default, sample = record(seconds=(2.0,), row=(2, 2)), record(seconds=(9.0,), row=(1, 1), kind="sample")
    again = record(seconds=(2.2,), row=(2, 2), kind="final")
    assert default_of([sample, default]) == default
    assert default_of([sample, default, again, record(row=(3, 3), kind="final")]) == again
    assert default_of([sample, record(trial=1)]) is None
    assert default_of([failed()]) is None
    assert default_of([]) is None
