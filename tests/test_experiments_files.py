"""The files of experiments: what is written is read back, and what is not there is said in one line."""

import json
from dataclasses import replace
from importlib import import_module

import pandas as pd
import pytest
from matplotlib.figure import Figure

from codegen.machine import detect_machine
from experiments import winograd
from experiments.command import exit_code, whole
from experiments.figure_parts import save
from experiments.files import check_same_machine, read_results, write_machine, write_results
from ir.errors import UserError
from search.tuner import TuneResult

EXPERIMENTS = (
    "breeding", "feature_groups", "kernels", "metaschedule", "model_quality", "objectives", "operators", "search_efficiency", "search_parts", "simulation",
    "throughput", "transfer", "winograd",
)  # fmt: skip


def test_results_are_read_back(tmp_path):
    results = pd.DataFrame({"task": ["a", "b"], "seconds": [1.5, 2.25]})
    write_results(tmp_path, results)
    write_machine(tmp_path, {"threads": 2})
    pd.testing.assert_frame_equal(read_results(tmp_path, ["seconds"]), results)
    assert json.loads((tmp_path / "machine.json").read_text()) == {"threads": 2}
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "machine.json"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it cannot be read: No columns"),
        ("task\n", "it has no rows"),
        ("method\na\n", "it lacks the column task, as another version's may; run the experiment again, into another directory"),
    ],
)
def test_what_are_no_results_is_said(text, words, tmp_path):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match=rf"results\.csv: {words}"):
        read_results(tmp_path, ["task"])


def test_rows_of_another_machine_are_not_added_to(tmp_path):
    machine = detect_machine(1)
    here = machine.target.to_json()
    check_same_machine(tmp_path, machine)  # nothing is there yet
    write_results(tmp_path, pd.DataFrame({"task": ["a"]}))
    write_machine(tmp_path, {"machine": {"target": here | {"features": "+known,+later"}}})
    check_same_machine(tmp_path, machine)
    write_machine(tmp_path, {"machine": {"target": here | {"threads": 64}}})
    with pytest.raises(UserError, match=r"its rows are of another machine \(cpu .*, threads 64; this one: cpu .*, threads 1\); choose another --output"):
        check_same_machine(tmp_path, machine)
    (tmp_path / "machine.json").write_text("{}")
    with pytest.raises(UserError, match=r"machine\.json: it does not say of which machine the rows beside it are"):
        check_same_machine(tmp_path, machine)


def test_what_ctrl_c_cut_short_is_no_result(capsys):
    """Tunings and comparisons end early and say so; an experiment must not take what they have by then for all."""
    result = TuneResult((), 1.0, interrupted=False)
    assert whole(result) is result
    assert exit_code(lambda: whole(replace(result, interrupted=True))) == 130
    assert capsys.readouterr().err == "error: interrupted; what is not done is not written\n"
    assert exit_code(lambda: None) == 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_results_of_another_kind_are_one_line(name, tmp_path, capsys):
    (tmp_path / "results.csv").write_text("what\n1\n")
    assert import_module(f"experiments.{name}").main(["--plot-only", "--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'results.csv'}: it lacks the column ")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_done(name, tmp_path, monkeypatch, capsys):
    experiment = import_module(f"experiments.{name}")
    monkeypatch.setattr(experiment, "run", None, raising=False)
    (tmp_path / "results.csv").mkdir()
    assert experiment.main(["--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'results.csv'}: it cannot be written: it is a directory\n"


def test_a_figure_of_nothing_is_one_line(tmp_path, capsys):
    assert winograd.main(["--plot-only", "--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {tmp_path / 'results.csv'}: it cannot be read: No such file or directory; a run of the experiment makes it"
    assert not list(tmp_path.iterdir())


def test_a_figure_takes_the_place_of_an_older_one_in_one_step(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"older")
    save(Figure(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError, match=r"b\.png: it cannot be written: something that is no file has its name"):
        save(Figure(), tmp_path / "b.png")
