"""The comparison experiment: its tasks and marks, a tiny run of it, and the table that is made of its CSV alone."""

from dataclasses import asdict, replace

import pandas as pd
import pytest

from data.store import Store
from experiments import kernels
from experiments.kernels import CONFIG, NETWORK, NOT_SLOWER, Config, Mark, heaviest, table
from ir.errors import UserError
from ir.task import task
from schedule.algorithms import DIRECT, algorithm_of

GOOD = {
    "group": "kernels", "task": "matmul:m=1,n=2,k=3", "name": "", "count": 1, "contender": "tuned", "setting": "tile_n", "min_seconds": 1e-6,
    "median_seconds": 2e-6, "gflops": 400.0, "peak_gflops": 420.0, "peak_fraction": 400 / 420, "gb_per_second": 1.0, "memory_level": "L2",
    "bandwidth_fraction": 0.1, "best_peer": "numpy", "ratio_to_best_peer": 1.01, "median_ratio_to_best_peer": 0.99, "noise_minima": 1.01,
    "noise_medians": 1.0, "other_cpus": 0.02,
    "trials": 5, "failed": 1, "tuning_seconds": 2.4, "mark_peak_fraction": 0.92, "mark_peer_ratio": 1.0, "mark_noise": True,
}  # fmt: skip


def verdict(**changes):
    return kernels.verdict(pd.Series(GOOD | changes))


def test_the_tasks_and_marks_of_the_issue():
    marked = CONFIG.marked_tasks()
    assert len(marked) == 13
    assert {group for group, _ in marked.values()} == {"kernels"}
    marks = {of.key: mark for of, (_, mark) in marked.items()}
    assert marks[task("matmul:m=1024,n=1024,k=1024").key] == Mark(0.92, 1.0, True)
    assert marks[task("matmul:m=1024,n=1024,k=1024,b=variable").key] == Mark(0.85)
    assert marks[task("conv2d:c=512,h=7,w=7,k=512,r=3,s=3,pad=1").key] == Mark(0.88)
    assert marks[task("matmul:m=1,n=1024,k=1024").key] == NOT_SLOWER


def test_tasks_can_be_chosen_by_number():
    assert [of.key for of in replace(CONFIG, choice="12,0").marked_tasks()] == [task(CONFIG.tasks[i][0]).key for i in (12, 0)]
    with pytest.raises(UserError, match="there is no task 13"):
        replace(CONFIG, choice="13").marked_tasks()


def test_the_heaviest_tasks_of_a_network_have_the_largest_share():
    tasks = [task(f"matmul:m={m},n=8,k=8", count=count) for m, count in ((4, 1), (1, 9), (6, 1), (2, 1))]
    assert heaviest(tasks, 3) == [tasks[1], tasks[2], tasks[0]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "yes"),
        ({"peak_fraction": 0.919}, "no: peak"),
        ({"ratio_to_best_peer": 0.991}, "yes"),  # within the noise of 0.01
        ({"ratio_to_best_peer": 0.989}, "no: peer"),
        ({"ratio_to_best_peer": 0.98, "noise_minima": 0.975}, "yes"),
        ({"ratio_to_best_peer": 0.96, "noise_minima": 1.5}, "no: peer"),  # so noisy a comparison is no excuse
        ({"ratio_to_best_peer": 0.5, "peak_fraction": 0.1}, "no: peak, peer"),
        ({"best_peer": "", "ratio_to_best_peer": None}, "no: no peer"),
        ({"mark_peer_ratio": 0.0, "best_peer": "", "ratio_to_best_peer": None}, "yes"),
        ({"other_cpus": 0.34}, "unclear: others kept 0.3 CPUs busy"),
        ({"mark_peer_ratio": 0.97, "mark_noise": False, "ratio_to_best_peer": 0.969}, "no: peer"),
    ],
)
def test_verdicts(changes, expected):
    assert verdict(**changes) == expected


def network_row(number, ratio, contender="tuned"):
    mark = {f"mark_{name}": value for name, value in asdict(NETWORK).items()}
    return GOOD | mark | {"group": "network", "task": f"task {number}", "contender": contender, "ratio_to_best_peer": ratio}


def test_the_network_s_geometric_mean():
    rows = [GOOD, network_row(1, 1.0), network_row(2, 1.21), network_row(2, 0.1, "default")]
    assert "2 heaviest tasks: 1.100 × the best peer of each; at least 1.1 wanted: yes." in table(pd.DataFrame(rows))
    assert "1.049 × the best peer of each; at least 1.1 wanted: no." in table(pd.DataFrame([network_row(1, 1.0), network_row(2, 1.1)]))
    assert "Geometric" not in table(pd.DataFrame([GOOD]))
    assert "Geometric" not in table(pd.DataFrame([*rows, network_row(3, 0.5, "default")]))  # one is not tuned


def test_the_table_has_a_line_a_task():
    lines = table(pd.DataFrame([GOOD, GOOD | {"contender": "numpy"}, network_row(1, 0.9, "default")])).splitlines()
    assert lines[2].startswith("| matmul:m=1,n=2,k=3 | 92% of peak, not slower than the best peer | 400.0 | 95.2% | 1.0 (10% of L2) | numpy |")
    assert lines[2].endswith("| numpy | 1.010 | 0.990 | 1.010, 1.000 | 5 (1) 2 s | yes |")
    assert lines[3].startswith("| task 1 | 0.97 × the best peer | – |")
    assert lines[3].endswith("| no: not tuned |")
    assert len({line.count("|") for line in lines[:4]}) == 1


def test_a_tiny_run(tmp_path):
    config = Config(tasks=(("matmul:m=16,n=48,k=24", NOT_SLOWER),), peers=("numpy",), max_trials=3, max_seconds=20.0, threads=1, rounds=1, turn_seconds=1e-3)
    results = kernels.run(config, tmp_path)
    assert set(results["contender"]) == {"tuned", "default", "numpy"}
    assert set(results["trials"]) == {3}
    assert (results["tuning_seconds"] > 0).all()
    assert (tmp_path / "machine.json").exists()
    text = kernels.report(tmp_path)
    assert "| not slower than the best peer |" in text
    assert (tmp_path / "kernels.md").read_text() == f"{text}\n"
    again = kernels.run(config, tmp_path, tune=None)
    assert set(again["trials"]) == {3}
    other = replace(config, tasks=(*config.tasks, ("matmul:m=8,n=48,k=24", NOT_SLOWER)), choice="1")
    both = kernels.run(other, tmp_path)
    assert list(both["task"].unique()) == [task(text).key for text, _ in other.tasks]  # the earlier rows are kept


def test_kernels_by_winograd_are_no_part_of_it(tmp_path):
    """A fraction of the peak says nothing of what multiplies less."""
    config = Config(tasks=(("conv2d:c=16,h=9,w=9,k=16,r=3,s=3,pad=1", NOT_SLOWER),), peers=("numpy",), max_trials=24, rounds=1, turn_seconds=1e-3)
    results = kernels.run(config, tmp_path)
    with Store(tmp_path / "records.db") as store:
        assert {algorithm_of(record.sketch) for record in store.records()} == {DIRECT}
    assert "tuned" in set(results["contender"])


def test_the_command_line_explains_bad_input(tmp_path, capsys):
    assert kernels.main(["--output", str(tmp_path), "--peers", "tvm", "--tasks", "0", "--no-tuning"]) == 2
    assert capsys.readouterr().err == "error: unknown peer 'tvm' (known: numpy, torch, onnxruntime)\n"
