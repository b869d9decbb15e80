"""Training and evaluating from directories: what is held out is never seen, under no name, and wrong data are one line."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from search_samples import TARGET
from test_tilewright_cli import assert_one_line_error, tilewright
from training_samples import MACHINE, SOURCES, directory, records

from costmodel.features import FEATURE_VERSION
from costmodel.model import CostModel
from costmodel.task_features import TaskFeatures
from costmodel.training import BY_TASK
from data import exchange
from data.measurements import read_measured
from data.record import UNCHECKED, machine_id
from ir.errors import UserError
from ir.identity import program_id
from ir.task import task
from schedule.rules import sketches
from tilewright.splits import held_out
from tilewright.training import evaluate, judge_machines, train_from_data
from tilewright.training_set import operator_kind, training_set

B = "matmul:m=64,n=96,k=32"
SAME_AS_B = "conv2d:n=1,c=32,h=8,w=8,k=96,r=1,s=1"
OTHER = MACHINE | {"cpu_model": "Another CPU"}


def program(text):
    return program_id(task(text).program)


pytestmark = pytest.mark.usefixtures("few_trees")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return directory(tmp_path_factory.mktemp("training") / "measured")


@pytest.fixture(scope="module")
def data(measured):
    return training_set(read_measured([measured]))


# --- examples ---------------------------------------------------------------------------------------------------------


def test_one_group_for_a_program_under_two_names(data):
    assert len(data.of_group) == len(SOURCES) - 1
    (group,) = (group for group in data.of_group if group.program == program(B))
    assert group.uses == {"a": 1, "b": 2}
    assert group.operators == {"matmul", "conv2d"}
    assert len(data.seconds) == 40 * len(SOURCES)
    assert data.y.max() == pytest.approx((np.array([g.work for g in data.of_group])[data.groups] / data.seconds).max())


def test_rows_belong_together(data):
    """Features, seconds and groups of a candidate are its own."""
    text = "matmul:m=48,n=48,k=48"
    mine = data.programs == program(text)
    expected = sorted(record.best_seconds for record in records(text) if record.is_trial)
    assert sorted(data.seconds[mine]) == expected


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("conv2d:n=1,c=8,h=4,w=4,k=8,groups=8,dilation=1", "depthwise conv2d"), ("conv2d:c=8,k=8,groups=2,dilation=2x2", "grouped dilated conv2d"),
        ("conv2d:c=8,k=8,groups=1,dilation=1x1", "conv2d"), ("softmax:shape=4x4,axis=1", "softmax"),
    ],
)  # fmt: skip
def test_kinds_of_operators(key, name):
    assert operator_kind(key) == name


def test_a_candidate_counts_once_under_all_names_of_its_program(tmp_path):
    """Its sketch and columns have other names there, its row and its place are the same."""
    one, same = records(B, repeats=0), records(SAME_AS_B, repeats=0)
    assert {record.sketch for record in one} != {record.sketch for record in same}
    names = dict(zip(dict.fromkeys(s.name for s in sketches(task(B).program, TARGET)), sketches(task(SAME_AS_B).program, TARGET), strict=True))
    renamed = [
        replace(each, task=task(SAME_AS_B).key, sketch=names[each.sketch].name, columns=names[each.sketch].space.names,
                seconds=(2 * each.best_seconds,))
        for each in one
    ]  # fmt: skip
    exchange.write(tmp_path / "one.parquet", one)
    exchange.write(tmp_path / "renamed.parquet", renamed)
    alone, other = (training_set(read_measured([tmp_path / f"{name}.parquet"])) for name in ("one", "renamed"))
    assert (alone.X == other.X).all()
    assert (alone.place == other.place).all()
    both = training_set(read_measured([tmp_path / "one.parquet", tmp_path / "renamed.parquet"]))
    assert both.seconds.tolist() == alone.seconds.tolist()


def test_a_second_measurement_of_a_candidate_is_none_to_learn_from(tmp_path):
    twice = [*records(B, n=10, repeats=0), *records(B, n=10, repeats=0, seed=1)]
    exchange.write(tmp_path / "x.parquet", twice)
    assert len(training_set(read_measured([tmp_path / "x.parquet"])).seconds) == 10


def test_uses_under_several_names_add_up(tmp_path):
    found = training_set(read_measured([directory(tmp_path / "d", {B: {"net": 2, "x": 1}, SAME_AS_B: {"net": 3}})]))
    assert found.of_group[0].uses == {"net": 5, "x": 1}


def test_rows_outside_of_the_space_are_left_out(tmp_path):
    found = records(B, repeats=0)
    wrong = [replace(found[i], row=(value, *found[i].row[1:])) for i, value in enumerate((-7, 10**15, 0))]
    exchange.write(tmp_path / "x.parquet", [*wrong, *found[3:]])
    assert training_set(read_measured([tmp_path / "x.parquet"])).left_out == {"row is not in the sketch's space now": 3}


def test_what_nobody_checked_is_none_to_learn_from(tmp_path):
    found = records(B, repeats=0)
    unchecked = [replace(record, versions=record.versions | {UNCHECKED: "yes"}) for record in found[:4]]
    exchange.write(tmp_path / "x.parquet", [*unchecked, *found[4:]])
    data = training_set(read_measured([tmp_path / "x.parquet"]))
    assert data.left_out == {"result was compared with nothing": 4}
    assert len(data.seconds) == len(found) - 4


@pytest.mark.parametrize(("name", "value"), [("lanes", "x"), ("cpu", 3), ("l1_bytes", -1), ("l3_bytes", 0)])
def test_a_machine_that_is_none(tmp_path, name, value):
    exchange.write(tmp_path / "x.parquet", records(B, machine=MACHINE | {name: value}))
    with pytest.raises(UserError, match=f"{name} of a target is {value!r}"):
        training_set(read_measured([tmp_path / "x.parquet"]))


def test_records_of_other_sketches_are_counted_and_nothing_left_is_refused(tmp_path):
    text = "matmul:m=48,n=48,k=48"
    old = [replace(record, sketch="gone") for record in records(text)[:7]]
    changed = [replace(record, columns=("x", *record.columns[1:])) for record in records(text)[7:10]]
    exchange.write(tmp_path / "mixed.parquet", [*old, *changed, *records(text)[10:]])
    found = training_set(read_measured([tmp_path / "mixed.parquet"]))
    assert found.left_out == {"sketch is not made any more": 7, "sketch has other columns now": 3}
    unknown = [replace(record, task="fft:n=8") for record in records(text)[:5]]
    exchange.write(tmp_path / "unknown.parquet", [*unknown, *records(text)])
    exchange.write(tmp_path / "known.parquet", records(text))
    more, fewer = (training_set(read_measured([tmp_path / f"{name}.parquet"])) for name in ("unknown", "known"))
    assert more.left_out == {"task is not known here": 5}
    assert (more.X == fewer.X).all()
    exchange.write(tmp_path / "old.parquet", old)
    with pytest.raises(UserError, match="none of the 7 measurements means anything to this version: 7: sketch is not made any more"):
        training_set(read_measured([tmp_path / "old.parquet"]))


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_network_is_never_seen_in_any_form(data):
    mask = held_out(data, "network", 0, ("b",))
    gone = set(data.programs[mask].tolist())
    assert gone == {program(B), program("softmax:shape=32x64,axis=1"), program("softmax:shape=64x128,axis=1")}
    assert program(SAME_AS_B) in gone
    assert not gone & set(data.programs[~mask].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_tasks_are_held_out_whole(data, seed):
    mask = held_out(data, "task", seed)
    gone, seen = set(data.programs[mask].tolist()), set(data.programs[~mask].tolist())
    assert gone
    assert seen
    assert not gone & seen
    assert (mask == held_out(data, "task", seed)).all()


def test_within_holds_out_the_same_candidates_when_there_are_more(data, tmp_path):
    """Of all names of a program alike, and of every task some."""
    mask = held_out(data, "within", 0)
    assert 0.1 < mask.mean() < 0.3
    more = training_set(read_measured([directory(tmp_path / "more", n=80)]))
    later = held_out(more, "within", 0)
    known = {tuple(row) for row in data.X[mask].tolist()}
    assert known <= {tuple(row) for row in more.X[later].tolist()}
    assert (held_out(data, "within", 1) != mask).any()


@pytest.mark.parametrize("seed", range(5))
def test_tasks_that_come_later_move_none_to_the_other_side(data, seed, tmp_path):
    gone = set(data.programs[held_out(data, "task", seed)].tolist())
    more = training_set(read_measured([directory(tmp_path / "more", SOURCES | {f"matmul:m=16,n={n},k=16": {"d": 1} for n in range(16, 80, 8)})]))
    later = set(more.programs[held_out(more, "task", seed)].tolist()) & set(data.programs.tolist())
    assert later <= gone
    assert later == gone or len(gone) == 1  # the one nearest to the limit, where none was within


def test_a_network_is_not_held_out_of_tasks_that_nothing_is_known_of(measured, tmp_path):
    exchange.write(tmp_path / "tuned.parquet", records("matmul:m=16,n=16,k=16"))
    mixed = training_set(read_measured([measured, tmp_path / "tuned.parquet"]))
    with pytest.raises(UserError, match="needs to know which networks use each task, and nothing is known of matmul:m=16"):
        held_out(mixed, "network", 0, ("b",))


def test_tasks_without_a_candidate_decide_nothing(data, tmp_path):
    """Whether their sketches are gone, or nothing is known of where they come from."""
    stale = [replace(record, sketch="gone") for n in range(16, 80, 8) for record in records(f"matmul:m=16,n={n},k=16", n=2, repeats=0)]
    measured = directory(tmp_path / "d")
    exchange.write(tmp_path / "stale.parquet", stale)
    found = training_set(read_measured([measured, tmp_path / "stale.parquet"]))
    assert found.of_group == data.of_group
    assert found.left_out["sketch is not made any more"] == len(stale)
    for seed in range(5):
        assert (held_out(found, "task", seed) == held_out(data, "task", seed)).all()
    assert (held_out(found, "network", 0, ("b",)) == held_out(data, "network", 0, ("b",))).all()


def test_empty_splits_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="--networks a,nonet: no measurement is of network 'nonet' \\(there are: a, b, c\\)"):
        held_out(data, "network", 0, ("a", "nonet"))
    with pytest.raises(UserError, match="an empty split: network holds out 280 of 280 candidates and leaves 0"):
        held_out(data, "network", 0, ("a", "b", "c"))
    one = training_set(read_measured([directory(tmp_path / "one", {B: {"a": 1}, SAME_AS_B: {"b": 1}})]))
    for split in ("task", "network"):
        with pytest.raises(UserError, match=f"the split {split} needs two tasks or more, the measurements are of 1"):
            held_out(one, split, 0, ("a",))
    assert held_out(one, "within", 0).any()


# --- training and evaluating ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "networks"), [("task", ()), ("within", ()), ("network", ("b",))])
def test_what_is_printed_is_what_evaluate_finds(measured, tmp_path, split, networks):
    training = train_from_data([measured], tmp_path / "m.ubj", 0, holdout=split, networks=networks)
    assert training.judged == evaluate(tmp_path / "m.ubj", [measured], split)
    result = training.to_json()
    assert all(0 <= result[name] <= 1 for name in ("pairwise_accuracy", "recall_at_30", "top_1", "top_5", "pairwise_bound"))
    json.dumps(result, allow_nan=False)


def test_the_model_file_says_what_it_was_trained_on(measured, tmp_path):
    train_from_data([measured], tmp_path / "m.ubj", 0, holdout="network", networks=("b",))
    card = CostModel.load(tmp_path / "m.ubj", FEATURE_VERSION, TaskFeatures.names).card_
    assert {task(B).key, task(SAME_AS_B).key} <= set(card.training["held_out"])
    assert not set(card.training["held_out"]) & set(card.training["trained"])
    assert (card.training["split"], card.training["networks"], card.training["machines"]) == ("network", ["b"], [machine_id(MACHINE)])
    assert card.scores["top_5"] <= 1
    assert card.parameters["n_threads"] == 1  # of so few candidates
    first = (tmp_path / "m.ubj").read_bytes()
    train_from_data([measured], tmp_path / "m.ubj", 0, holdout="network", networks=("b",))
    assert (tmp_path / "m.ubj").read_bytes() == first


def test_it_refuses_to_score_what_the_model_has_learned(measured, tmp_path):
    train_from_data([measured], tmp_path / "task.ubj", 0, holdout="task")
    train_from_data([measured], tmp_path / "all.ubj", 0)
    with pytest.raises(UserError, match=r"was trained with --holdout task: it knows . of the 6 tasks that --split within would score"):
        evaluate(tmp_path / "task.ubj", [measured], "within")
    with pytest.raises(UserError, match="was trained on everything: it knows 1 of the 1 tasks"):
        evaluate(tmp_path / "all.ubj", [measured], "task")
    assert evaluate(tmp_path / "all.ubj", [measured], "task", allow_trained=True).scores.n_tasks == 1


def test_a_model_remembers_tasks_not_their_ids(measured, tmp_path, monkeypatch):
    """Which may be others in another version."""
    train_from_data([measured], tmp_path / "m.ubj", 0)
    for module in ("tilewright.training", "tilewright.training_set"):
        monkeypatch.setattr(f"{module}.program_id", lambda program: f"new {program_id(program)}")
    with pytest.raises(UserError, match="was trained on everything"):
        evaluate(tmp_path / "m.ubj", [measured], "task")


def test_without_holdout_the_names_of_a_program_are_held_out_together(measured, tmp_path):
    training = train_from_data([measured], tmp_path / "m.ubj", 0)
    assert training.judged.split == BY_TASK
    assert training.judged.scores.n_tasks == training.n_trained_tasks == len(SOURCES) - 1


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_machines_are_mixed_only_when_meant(measured, tmp_path):
    other = directory(tmp_path / "other", machine=OTHER)
    with pytest.raises(UserError, match=r"the measurements are of 2 machines .*; --mix-machines takes them together"):
        train_from_data([measured, other], tmp_path / "m.ubj", 0)
    assert not (tmp_path / "m.ubj").exists()
    train_from_data([measured], tmp_path / "m.ubj", 0, holdout="task")
    with pytest.raises(UserError, match=f"was trained on machine {machine_id(MACHINE)}, the measurements are of {machine_id(OTHER)}; --mix-machines"):
        evaluate(tmp_path / "m.ubj", [other], "task")
    assert evaluate(tmp_path / "m.ubj", [other], "task", mix_machines=True).scores.n_tasks == 1
    both = train_from_data([measured, other], tmp_path / "both.ubj", 0, holdout="task", mix_machines=True)
    assert both.judged is not None
    assert both.judged.scores.n_tasks == 2  # one task on two machines


def test_machines_that_were_merged_into_one_directory_are_taken_together(tmp_path):
    both = directory(tmp_path / "both")
    directory(both, machine=OTHER)
    training = train_from_data([both], tmp_path / "m.ubj", 0, holdout="task")
    found = evaluate(tmp_path / "m.ubj", [both], "task")
    assert found.scores.n_tasks == 2
    assert training.judged == found
    by_id = {machine_id(machine): f"{machine['cpu']} {machine_id(machine)}" for machine in (MACHINE, OTHER)}
    assert list(found.machines) == [by_id[machine] for machine in sorted(by_id)]
    assert [each.scores.n_tasks for each in found.machines.values()] == [1, 1]
    assert sum(each.scores.n_candidates for each in found.machines.values()) == found.scores.n_candidates
    accuracies = [each.scores.pairwise_accuracy for each in found.machines.values()]
    assert found.scores.pairwise_accuracy == pytest.approx(np.mean(accuracies))  # as many candidates of each
    assert found.to_json()["machines"][by_id[machine_id(OTHER)]]["n_tasks"] == 1


def test_each_machine_is_judged_by_its_own_scores(tmp_path):
    """One in the right order, the other in the wrong one."""
    both = directory(tmp_path / "both")
    directory(both, machine=OTHER)
    data = training_set(read_measured([both]))
    mask = held_out(data, "task", 0)
    sign = np.where(data.machines == machine_id(OTHER), -1, 1)
    found = judge_machines((sign * data.y)[mask].astype(np.float32), data, mask)
    assert {machine: scores.pairwise_accuracy for machine, scores in found.items()} == {machine_id(MACHINE): 1, machine_id(OTHER): 0}


def test_a_machine_with_nothing_to_judge_is_left_out(tmp_path):
    """All of its candidates held out are as fast."""
    both = directory(tmp_path / "both")
    slow = [replace(record, seconds=(1.0,)) for text in SOURCES for record in records(text, repeats=0, machine=OTHER)]
    exchange.write(both / f"{machine_id(OTHER)}.parquet", slow)
    train_from_data([both], tmp_path / "m.ubj", 0, holdout="task")
    assert list(evaluate(tmp_path / "m.ubj", [both], "task").machines) == [f"{MACHINE['cpu']} {machine_id(MACHINE)}"]


@pytest.mark.parametrize("wrong", [float("nan"), -1.0, 0.0, float("inf")])
def test_times_that_are_none(tmp_path, wrong):
    exchange.write(tmp_path / "x.parquet", records(B))
    table = pq.read_table(tmp_path / "x.parquet")
    seconds = [[wrong], *table["seconds"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index("seconds"), "seconds", pa.array(seconds)), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"x\.parquet, row 1: seconds holds what is"):
        train_from_data([tmp_path / "x.parquet"], tmp_path / "m.ubj", 0)


def test_files_that_are_not_there(measured, tmp_path):
    with pytest.raises(UserError, match=r"absent\.ubj: it does not exist"):
        evaluate(tmp_path / "absent.ubj", [measured], "task")
    with pytest.raises(UserError, match="absent: it does not exist"):
        train_from_data([tmp_path / "absent"], tmp_path / "m.ubj", 0)
    with pytest.raises(UserError, match="no measurement is of network 'minilm'"):
        train_from_data([measured], tmp_path / "m.ubj", 0, holdout="network")
    failed = [replace(record, seconds=(), failure="crash") for record in records(B, repeats=0)]
    exchange.write(tmp_path / "failed.parquet", failed)
    with pytest.raises(UserError, match="all 40 recorded trials failed"):
        train_from_data([tmp_path / "failed.parquet"], tmp_path / "m.ubj", 0)
    assert not (tmp_path / "m.ubj").exists()


def test_a_model_that_does_not_say_what_it_was_trained_on(measured, data, tmp_path):
    model = CostModel(n_estimators=2).fit(data.X, data.y, data.names)
    model.save(tmp_path / "m.ubj", FEATURE_VERSION, TaskFeatures.names, "00")
    with pytest.raises(UserError, match=r"m\.ubj does not say what it was trained on"):
        evaluate(tmp_path / "m.ubj", [measured], "task")


def test_the_command_line(measured, tmp_path):
    trained = tilewright("train", measured, "-o", "m.ubj", "--holdout", "network", "--networks", "b", "--json", "t.json", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "at most: what the repeatability" in trained.stdout
    judged = tilewright("evaluate", "m.ubj", measured, "--split", "network", "--json", "e.json", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    found, told = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("e", "t"))
    assert found == {name: told[name] for name in found}
    assert (told["n_tasks"], told["n_trained_tasks"]) == (3, 3)
    for arguments, words in (
        (("evaluate", "m.ubj", measured, "--split", "within"), ("m.ubj", "--allow-trained")),
        (("train", measured, "-o", "n.ubj", "--networks", "a"), ("--networks a",)),
    ):
        assert_one_line_error(tilewright(*arguments, cwd=tmp_path), *words)
    assert not (tmp_path / "n.ubj").exists()
