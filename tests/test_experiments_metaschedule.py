"""The comparison with TVM MetaSchedule: its cases, whole runs against stand-ins for TVM's Python, and the table, which is made of the CSV alone."""

import json
import os
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments import metaschedule, metaschedule_worker
from experiments.metaschedule import CONFIG, Config, main, table
from experiments.metaschedule_figure import best_so_far
from experiments.metaschedule_worker import WORKLOADS, check, failure_line, parse
from graph.operator_suite import FAMILIES
from ir.errors import UserError
from tilewright import api, turns

VERSIONS = {"apache-tvm": "9.8.7", "apache-tvm-ffi": "0.1", "xgboost": "3", "numpy": "2"}
ANSWER = {
    "trials": 8, "failed": 3, "failures": {"TimeoutError: slow": 2, "no message": 1}, "tuning_seconds": 400.0, "packed": False,
    "seconds": [None, 2.0, None, 3.0, None, 1.0, 1.5, 1.2], "elapsed_seconds": [100.0] * 4 + [300.0] * 4, "error_of_tolerance": 0.1, "target": "llvm",
}  # fmt: skip
TVM = f"""#!{sys.executable}
import json, sys
if "--versions" in sys.argv:
    print({json.dumps(VERSIONS)!r})
    sys.exit()
job = json.loads(sys.stdin.readline())
assert job["trials"] == 8, job
DIE
print({json.dumps(ANSWER)!r}, flush=True)
for line in sys.stdin:
    assert set(json.loads(line)) == {{"warm_seconds", "turn_seconds"}}
    print(json.dumps({{"min_seconds": 0.5, "median_seconds": 0.75, "is_quiet": False}}), flush=True)
"""


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def tune_little(of, records, config):
    api.tune(of, records=records, max_trials=1, threads=config.threads)


@pytest.fixture
def tiny(monkeypatch):
    """A configuration of two small cases."""
    monkeypatch.setitem(FAMILIES, "TBG", replace(FAMILIES["TBG"], shapes=((8, 2, 4),)))
    monkeypatch.setitem(FAMILIES, "NRM", replace(FAMILIES["NRM"], shapes=((8, 8),)))
    return Config(families=("TBG",), shape=0, trials=2, tvm_trials=8, rounds=2, turn_seconds=0.001)


# --- cases ----------------------------------------------------------------------------------------------------------


def test_every_family_has_a_case_and_a_definition():
    cases = CONFIG.cases()
    assert set(cases) == set(FAMILIES)
    for of in cases.values():
        operator, given = parse(of.key)
        assert WORKLOADS[operator].n_summed(given) > 0


@pytest.mark.parametrize(("text", "n"), [("softmax:shape=512x1024,axis=1", 1024), ("attention:batch=1,heads=12,queries=256,keys=128,dim=64", 192)])
def test_softmax_and_attention_have_definitions(text, n):
    operator, given = parse(text)
    assert WORKLOADS[operator].n_summed(given) == n


def test_turns_are_timed_as_ours_are():
    assert (metaschedule_worker.WARM_CALLS, metaschedule_worker.TIMED_CALLS, metaschedule_worker.LONG_SECONDS) == (
        turns.WARM_CALLS, turns.TIMED_CALLS, turns.LONG_SECONDS,
    )  # fmt: skip


@pytest.mark.parametrize(("seconds", "least", "n"), [(20, 2, 5), (0, 2, 2), (0, 7, 3)])
def test_long_calls_need_not_be_many(seconds, least, n, monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(metaschedule_worker.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(metaschedule_worker, "LONG_SECONDS", 10)
    assert metaschedule_worker.time_calls(lambda: None, seconds, least) == [2] * n


@pytest.mark.parametrize(
    ("family", "shapes"),
    [
        ("C1D", [(1, 64, 256), (5, 256, 256)]),
        ("C2D", [(1, 14, 14, 256), (3, 3, 256, 256)]),
        ("GRP", [(1, 14, 14, 256), (3, 3, 64, 256)]),
        ("DIL", [(1, 14, 14, 256), (3, 3, 256, 256)]),
        ("DEP", [(1, 14, 14, 512), (1, 3, 3, 512)]),
        ("T2D", [(1, 16, 16, 128), (4, 4, 128, 64)]),
        ("CAP", [(1, 16, 16, 4, 4, 8), (3, 3, 4, 4, 8, 16)]),
        ("NRM", [(1, 1024, 1024)]),
        ("CBR", [(1, 28, 28, 128), (1, 1, 128, 256), (256,)]),
        ("TBG", [(1, 64, 12, 128), (1, 64, 12, 128)]),
        ("GMM", [(1, 512, 512), (1, 512, 512)]),
    ],
)
def test_the_reference_of_ones(family, shapes):
    """Its inputs and its result are in TVM's layouts; those of activations are ours too."""
    of = list(FAMILIES[family].tasks(1))[2]
    operator, given = parse(of.key)
    inputs = [np.ones(shape) for shape in shapes]
    found = WORKLOADS[operator].reference(given, *inputs)
    assert found.shape == of.program.output.shape
    n = WORKLOADS[operator].n_summed(given)
    # Where no padding comes in. Of a transposed kernel with stride 2, every other tap in both directions meets an input.
    assert found.max() == {"CBR": n + 1, "T2D": n // 4, "NRM": n**0.5}.get(family, n)


def test_what_has_no_definition_is_said():
    with pytest.raises(ValueError, match="no definition for different numbers: stride=1x2"):
        metaschedule_worker.number({"stride": "1x2"}, "stride")


def test_a_wrong_result_of_tvm_is_noticed():
    wanted = np.arange(1.0, 5.0)
    assert check(wanted.astype(np.float32), wanted, 16) < 1
    with pytest.raises(RuntimeError, match=r"TVM's kernel is wrong: the largest error is .* times what is tolerated"):
        check(wanted + 0.01, wanted, 16)
    with pytest.raises(RuntimeError, match="wrong"):
        check(wanted * np.nan, wanted, 16)


def test_a_failure_is_told_by_the_last_line_of_its_trace():
    assert failure_line("Traceback\n  File x\nRuntimeError: no\n\n") == "RuntimeError: no"


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_tiny_run(tmp_path, tiny):
    python = script(tmp_path / "tvm", TVM.replace("DIE", ""))
    metaschedule.run(tiny, tmp_path, python, tune=tune_little)
    read = pd.read_csv(tmp_path / "results.csv")
    (row,) = read.to_dict("records")
    assert (row["family"], row["trials"], row["tvm_trials"], row["tvm_failed"]) == ("TBG", 1, 8, 3)
    assert row["tvm_failures"] == "2 × TimeoutError: slow; 1 × no message"
    assert (row["tvm_min_seconds"], row["tvm_median_seconds"], row["apache_tvm"]) == (0.5, 0.75, "9.8.7")
    assert row["ratio"] == pytest.approx(0.5 / row["min_seconds"])
    assert row["tuning_ratio"] == pytest.approx(400 / row["tuning_seconds"])
    assert row["disturbed_turns"] == 2  # those after TVM's, whose process was busy: its own second one, and our second one
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["tvm_versions"] == VERSIONS
    assert str(tmp_path) not in json.dumps(machine)
    text = metaschedule.report(tmp_path)
    assert "1 case against MetaSchedule of TVM 9.8.7: " in text
    assert "wanted: 1.5" not in text  # which is said of as many trials
    assert "wanted: 1.5" in table(read.assign(trials=8))
    assert "| TBG | transpose, batched product | einsum:" in text

    with pytest.raises(UserError, match=r"already has trials of einsum:.*; name another file with --records"):
        metaschedule.run(tiny, tmp_path, python, tune=tune_little)
    both = metaschedule.run(replace(tiny, families=("NRM",)), tmp_path, python, tune=tune_little)
    assert list(both["family"]) == ["NRM", "TBG"]  # in the order of the families; the earlier row is kept
    assert not both["sketch"].isna().any()
    assert json.loads((tmp_path / "machine.json").read_text())["config"]["families"] == ["NRM"]


def test_the_trials_of_both_tools_and_their_curves(tmp_path, tiny):
    python = script(tmp_path / "tvm", TVM.replace("DIE", ""))
    results = metaschedule.run(replace(tiny, families=("NRM", "TBG")), tmp_path, python, tune=tune_little)
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert list(trials["family"].unique()) == ["NRM", "TBG"]
    theirs = trials[(trials["family"] == "TBG") & (trials["tool"] == "metaschedule")]
    assert list(theirs["trial"]) == list(range(8))
    assert list(theirs["seconds"]) == [np.inf, 2, np.inf, 3, np.inf, 1, 1.5, 1.2]
    assert list(theirs["elapsed_seconds"]) == ANSWER["elapsed_seconds"]
    (ours,) = trials[(trials["family"] == "TBG") & (trials["tool"] == "tilewright")].to_dict("records")
    assert 0 < ours["seconds"] < ours["elapsed_seconds"] <= results["tuning_seconds"][1]

    runs = best_so_far(results, trials)
    mine = runs[(runs["task"] == "TBG") & (runs["tool"] == "metaschedule")]
    assert list(mine["trial"]) == [2, 3, 4, 5, 6, 7, 8]  # from its first success on
    ends_at = results["min_seconds"][1] / 0.5  # of the faster kernel, which is ours
    assert mine["best_share"].to_numpy() == pytest.approx(np.array([0.5, 0.5, 0.5, 0.5, 1, 1, 1]) * ends_at)
    assert runs[(runs["task"] == "TBG") & (runs["tool"] == "tilewright")]["best_share"].item() == 1

    again = metaschedule.run(replace(tiny, families=("NRM",)), tmp_path, python, tmp_path / "again.db", tune=tune_little)
    assert len(again) == 2
    assert len(pd.read_csv(tmp_path / "trials.csv")) == len(trials)  # those of the case are replaced
    metaschedule.report(tmp_path)
    assert (tmp_path / "metaschedule.png").stat().st_size > 10_000


def test_without_curves_of_both_there_is_no_figure(tmp_path, tiny):
    python = script(tmp_path / "tvm", TVM.replace("DIE", "sys.exit('RuntimeError: none of 2 trials is valid')"))
    metaschedule.run(tiny, tmp_path, python, tune=tune_little)
    assert "no case with trials of both, so no figure" in metaschedule.report(tmp_path)
    (tmp_path / "trials.csv").unlink()
    assert "No trials.csv beside it, which runs of before 0.2 did not write" in metaschedule.report(tmp_path)
    assert not (tmp_path / "metaschedule.png").exists()


def test_the_machine_is_told_when_there_are_results_of_it(tmp_path, tiny):
    """What is there stays true of the rows beside it until there are others."""
    (tmp_path / "machine.json").write_text("{}")
    python = script(tmp_path / "tvm", TVM)

    def interrupt(of, records, config):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        metaschedule.run(tiny, tmp_path, python, tune=interrupt)
    assert (tmp_path / "machine.json").read_text() == "{}"


def test_a_row_stays_until_its_successor_is_measured(tmp_path, tiny):
    python, both = script(tmp_path / "tvm", TVM.replace("DIE", "")), replace(tiny, families=("NRM", "TBG"))
    before = metaschedule.run(both, tmp_path, python, tune=tune_little)
    before.assign(min_seconds=[100.0, 200.0]).to_csv(tmp_path / "results.csv", index=False)  # two measurements of one kernel may be equal

    def interrupted(of, records, config):
        if of.key == before["task"][1]:
            raise KeyboardInterrupt
        tune_little(of, records, config)

    with pytest.raises(KeyboardInterrupt):
        metaschedule.run(both, tmp_path, python, tmp_path / "again.db", tune=interrupted)
    after = pd.read_csv(tmp_path / "results.csv")
    assert list(after["family"]) == ["NRM", "TBG"]
    assert after["min_seconds"][0] < 1
    assert after["min_seconds"][1] == 200


def test_rows_of_an_earlier_version_are_refused(tmp_path, tiny):
    pd.DataFrame({"family": ["GMM"], "ratio": [1.0]}).to_csv(tmp_path / "results.csv")
    with pytest.raises(UserError, match=r"results\.csv: it lacks the column task and \d+ others"):
        metaschedule.run(tiny, tmp_path, script(tmp_path / "tvm", TVM), tune=tune_little)


def test_a_case_that_tvm_fails_at_is_recorded_with_the_reason(tmp_path, tiny):
    python = script(tmp_path / "tvm", TVM.replace("DIE", "sys.exit('RuntimeError: none of 2 trials is valid')"))
    metaschedule.run(tiny, tmp_path, python, tune=tune_little)
    read = pd.read_csv(tmp_path / "results.csv")
    assert read["tvm_failure"].item() == "the worker ended by itself with status 1: RuntimeError: none of 2 trials is valid"
    assert read["min_seconds"].item() > 0
    text = table(read)
    assert text.startswith("TVM has no kernel for any case.")
    assert "TBG: TVM has no kernel, the worker ended by itself with status 1: RuntimeError" in text


def test_without_a_python_that_has_tvm_there_is_one_line_and_status_2(tmp_path, capsys):
    without = script(tmp_path / "python", f"#!{sys.executable}\nraise SystemExit(\"No module named 'tvm'\")")
    silent = script(tmp_path / "silent", f"#!{sys.executable}\n")
    for python, words in (
        (str(tmp_path / "none"), "cannot be started: No such file or directory"),
        (without, "is no Python with TVM: No module named 'tvm'"),
        (silent, "is no Python with TVM: asked for versions, it said ''"),
    ):
        assert main(["--tvm-python", python, "--output", str(tmp_path / "output")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert line.endswith(words)
    assert not list((tmp_path / "output").iterdir())


def test_the_interpreter_has_to_be_named(tmp_path, capsys):
    assert main(["--output", str(tmp_path)]) == 2
    assert "--tvm-python is needed" in capsys.readouterr().err


@pytest.mark.skipif("TVM_PYTHON" not in os.environ, reason="TVM_PYTHON names no interpreter that has TVM")
def test_tvm_itself(tmp_path, tiny):
    metaschedule.run(replace(tiny, build_timeout_seconds=300.0), tmp_path, os.environ["TVM_PYTHON"], tune=tune_little)
    read = pd.read_csv(tmp_path / "results.csv")
    assert read["tvm_failure"].isna().all()
    assert (read["tvm_trials"] == 8).all()
