"""The files of experiments: what is written is read back, and what is not there is said in one line."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from matplotlib.figure import Figure

from codegen.machine import detect_machine
from experiments import search_efficiency, winograd
from experiments.command import exit_code, whole
from experiments.figure_parts import save
from experiments.files import check_same_machine, read_results, write_machine, write_results
from ir.errors import UserError
from search.tuner import TuneResult


def test_results_are_read_back(tmp_path):
    results = pd.DataFrame({"task": ["a", "b"], "seconds": [1.5, 2.25]})
    write_results(tmp_path, results)
    write_machine(tmp_path, {"threads": 2})
    pd.testing.assert_frame_equal(read_results(tmp_path), results)
    assert json.loads((tmp_path / "machine.json").read_text()) == {"threads": 2}
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "machine.json"}


def test_what_is_no_csv_is_named(tmp_path):
    (tmp_path / "results.csv").touch()
    with pytest.raises(UserError, match=r"results\.csv: it cannot be read: No columns"):
        read_results(tmp_path)


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


@pytest.mark.parametrize(("main", "option"), [(search_efficiency.main, "--plot-only"), (winograd.main, "--table-only")])
def test_a_figure_of_nothing_is_one_line(main, option, tmp_path, capsys):
    assert main([option, "--output", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {tmp_path / 'results.csv'}: it cannot be read: No such file or directory; a run of the experiment makes it"


def test_a_figure_takes_the_place_of_an_older_one_in_one_step(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"older")
    save(Figure(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError, match=r"b\.png: it cannot be written: something that is no file has its name"):
        save(Figure(), tmp_path / "b.png")
