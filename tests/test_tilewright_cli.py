"""The command line as a user meets it: exit statuses, one-line errors, resuming, Ctrl-C, two tuners at once."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from graph_models import save
from onnx.helper import make_node as node

from data.store import Store
from ir.errors import UserError
from tilewright import __version__
from tilewright.api import SEARCHES
from tilewright.cli import SearchName, main

TINY = "matmul:m=24,n=40,k=32"


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def tilewright(*arguments, cwd=None):
    """A command in this process, which has loaded the libraries already."""
    out, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "argv", ["tilewright", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        patch.chdir(cwd or Path.cwd())
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(ended.value.code or 0, out.getvalue(), error.getvalue())


def unread(*arguments, cwd):
    """A command the reader of whose output has gone away, as `head` does."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "tilewright", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment, check=False)
    os.close(writing)
    return done


def assert_one_line_error(done, *words):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A records file of one short tuning run."""
    path = tmp_path_factory.mktemp("cli") / "r.db"
    done = tilewright("tune", TINY, "--records", path, "--max-trials", 24, "--batch", 12, "--json", path.with_suffix(".json"))
    assert done.returncode == 0, done.stderr
    return path


def test_help_names_every_command():
    done = tilewright("--help")
    assert done.returncode == 0
    for command in ("doctor", "tasks", "tune", "best", "show", "bench", "record", "train", "evaluate", "plot", "export", "import"):
        assert command in done.stdout


def test_the_version_is_that_of_the_package():
    process = start("--version")
    assert process.communicate(timeout=120) == (f"tilewright {__version__}\n", "")
    assert process.returncode == 0


def test_a_process_ends_as_its_command_does(tmp_path):
    process = start("tasks", tmp_path / "nothing.onnx")
    out, error = process.communicate(timeout=120)
    assert_one_line_error(Done(process.returncode, out, error), "nothing.onnx")


def test_what_is_kept_is_said_as_it_is(tmp_path):
    without = tilewright("tune", TINY, "--max-trials", 1)
    assert "nothing is kept without --records" in without.stderr
    kept = tilewright("tune", TINY, "--max-trials", 1, "--records", tmp_path / "r.db")
    assert f"Ctrl-C keeps the best so far in {tmp_path / 'r.db'}" in kept.stderr


def test_standard_output_is_no_file(tmp_path):
    assert_one_line_error(tilewright("tune", TINY, "--json", "-", cwd=tmp_path), "-: standard output has the tables; name a file")
    assert not list(tmp_path.iterdir())


def test_help_does_not_wait_for_the_heavy_libraries():
    code = "import sys, tilewright.cli; print([m for m in ('numpy', 'xgboost', 'llvmlite', 'onnx', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "[]"


def test_tune_writes_the_whole_result(records):
    result = json.loads(records.with_suffix(".json").read_text())
    (task,) = result["tasks"]
    assert task["key"].startswith(TINY)
    assert task["trials"] == 24
    assert task["best_seconds"] <= task["default_seconds"]
    assert task["peak_fraction"] > 0
    assert {"name", "count", "flops", "failed", "best_gflops", "tuning_seconds"} <= task.keys()
    assert result["machine"]["cpu_model"]


def test_tuning_again_continues_and_then_has_nothing_to_do(records, tmp_path):
    copy = tmp_path / "r.db"
    copy.write_bytes(records.read_bytes())
    more = tilewright("tune", TINY, "--records", copy, "--max-trials", 30)
    assert more.returncode == 0, more.stderr
    with Store(copy) as store:
        trials = [record for record in store.records() if record.kind == "trial"]
    assert len(trials) == 30
    assert len({(record.sketch, record.row) for record in trials}) == 30
    again = tilewright("tune", TINY, "--records", copy, "--max-trials", 30)
    assert again.returncode == 0
    with Store(copy) as store:
        assert len([record for record in store.records() if record.kind == "trial"]) == 30


def test_best_show_and_exports(records, tmp_path):
    best = tilewright("best", "--records", records)
    assert best.returncode == 0, best.stderr
    assert "matmul:m=24" in best.stdout
    for form, word in (("nest", "parallel for"), ("llvm", "define"), ("asm", "kernel:")):
        shown = tilewright("show", "--records", records, TINY, "--ir", form)
        assert shown.returncode == 0, shown.stderr
        assert word in shown.stdout
    for name in ("r.parquet", "r.jsonl"):
        assert tilewright("export", "--records", records, "-o", tmp_path / name).returncode == 0
        imported = tilewright("import", tmp_path / name, "--records", tmp_path / f"{name}.db")
        assert imported.returncode == 0, imported.stderr
        with Store(records) as old, Store(tmp_path / f"{name}.db") as new:
            assert old.records() == new.records()


def test_winograd_can_be_left_out(tmp_path):
    """While tuning, and afterwards among the records."""
    windows = ("conv2d:c=32,h=12,w=12,k=32,r=3,s=3,pad=1", "--records", tmp_path / "r.db")
    for options, n_trials in ((("--deterministic",), 8), ((), 30)):
        done = tilewright("tune", *windows, "--max-trials", n_trials, "--search", "random", *options)
        assert done.returncode == 0, done.stderr
        with Store(tmp_path / "r.db") as store:
            assert any(record.sketch.startswith("winograd") for record in store.records()) == (not options)
    for option in ("--no-winograd", "--deterministic"):
        best = tilewright("best", "--records", tmp_path / "r.db", option)
        assert best.returncode == 0, best.stderr
        assert "winograd" not in best.stdout
        shown = tilewright("show", windows[0], *windows[1:], option)
        assert shown.returncode == 0, shown.stderr
        assert "products" not in shown.stdout


def test_train_and_tune_with_the_trained_model(records, tmp_path):
    trained = tilewright("train", "--records", records, "-o", tmp_path / "m.ubj")
    assert trained.returncode == 0, trained.stderr
    assert "pairwise accuracy" in trained.stdout
    tuned = tilewright("tune", "matmul:m=32,n=48,k=40", "--max-trials", 8, "--cost-model", tmp_path / "m.ubj")
    assert tuned.returncode == 0, tuned.stderr


def test_no_valid_trial_is_status_1(tmp_path):
    """A limit on time that no candidate can keep: it would take a thread of 540 GFLOP/s."""
    done = tilewright("tune", "matmul:m=3000,n=3000,k=3000", "--records", tmp_path / "r.db", "--max-trials", 2, "--timeout", 0.1, "--threads", 1, "--no-check")
    assert done.returncode == 1, done.stderr
    assert "timeout" in done.stdout
    assert "not tuned: matmul" in done.stdout
    with Store(tmp_path / "r.db") as store:
        assert {record.failure for record in store.records()} == {"timeout"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tune", "nothing.onnx"), ("nothing.onnx",)),
        (("tune", "mathmul:m=1,n=1,k=1"), ("mathmul", "matmul")),
        (("tune", "matmul:m=0,n=1,k=1"), ("m=", "0")),
        (("tune", "matmul:m=-4,n=1,k=1"), ("m=", "-4")),
        (("tune", "matmul:m=99999999999,n=1,k=1"), ("m=", "99999999999")),
        (("tune", TINY, "--cost-model", "absent.ubj"), ("absent.ubj", "scratch")),
        (("tune", TINY, "--records", "absent/r.db"), ("absent",)),
        (("tune", TINY, "--threads", "4096"), ("4096",)),
        (("tune", TINY, "--tasks", "7"), ("7",)),
        (("tune", TINY, "--tasks", "a-b"), ("a-b",)),
        (("tune", TINY, "--tasks", "0,5-3"), ("5-3", "backwards")),
        (("tune", TINY, "--tasks", "0-99999999999"), ("99999999999",)),
        (("tune", TINY, "--json", "absent/x.json"), ("absent/x.json",)),
        (("tune", TINY, "--search", "random", "--cost-model", "scratch"), ("random", "scratch")),
        (("record", "--merge", "absent", "--max-trials", "5"), ("--max-trials",)),
        (("train", "absent", "-o", "nowhere/m.ubj"), ("nowhere/m.ubj",)),
        (("tune", TINY, "--shape", "x=1,2"), ("--shape",)),
        (("tasks", "conv2d:c=3,h=4,w=4,k=8,r=7,s=7"), ("7x7",)),
        (("best", "--records", "absent.db"), ("absent.db",)),
        (("tasks", "net.onnx", "--json", "net.onnx"), ("net.onnx", "uses")),
        (("tune", TINY, "--records", "r.db", "--json", "./r.db"), ("r.db", "uses")),
        (("best", "--json", "r.db", "--records", "./r.db"), ("r.db", "uses")),
        (("bench", TINY, "--records", "r.db", "--json", "r.db"), ("r.db", "uses")),
        (("train", "x.parquet", "-o", "x.parquet"), ("x.parquet", "uses")),
        (("train", "--records", "r.db", "-o", "r.db"), ("r.db", "uses")),
        (("train", "x.parquet", "-o", "m.ubj", "--json", "m.ubj"), ("m.ubj", "uses")),
        (("evaluate", "m.ubj", "x.parquet", "--json", "x.parquet"), ("x.parquet", "uses")),
        (("export", "--records", "r.jsonl", "-o", "r.jsonl"), ("r.jsonl", "uses")),
        (("show", "--records", "absent.db", TINY), ("absent.db",)),
        (("train", "--records", "absent.db"), ("absent.db",)),
        (("train",), ("--records",)),
        (("plot", "--records", "absent.db"), ("absent.db",)),
        (("export", "--records", "absent.db", "-o", "x.parquet"), ("absent.db",)),
        (("import", "absent.parquet", "--records", "r.db"), ("absent.parquet",)),
        (("bench", TINY, "--peers", "nobody"), ("nobody",)),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bad_input_is_one_line_and_status_2(arguments, words, tmp_path):
    assert_one_line_error(tilewright(*arguments, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_what_they_should_be(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("not a network")
    (tmp_path / "text.db").write_text("not a database, but long enough to look like a file of some kind")
    (tmp_path / "text.ubj").write_text("not a model")
    sqlite3.connect(tmp_path / "foreign.db").execute("CREATE TABLE birds (name TEXT)").connection.close()
    for arguments in (
        ("tasks", "empty.onnx"),
        ("tune", "text.onnx"),
        ("tune", TINY, "--records", "text.db"),
        ("tune", TINY, "--records", "foreign.db"),
        ("tune", TINY, "--cost-model", "text.ubj"),
        ("best", "--records", "text.db"),
    ):
        assert_one_line_error(tilewright(*arguments, cwd=tmp_path), Path(arguments[-1]).name)


@pytest.mark.parametrize("arguments", [("tune", TINY), ("best",)])
def test_a_reader_that_goes_away_costs_no_result(records, tmp_path, arguments):
    """The JSON is written all the same, and the exit status is that of what was done: here 0."""
    done = unread(*arguments, "--records", records, "--json", "r.json", *(("--max-trials", 24) if arguments[0] == "tune" else ()), cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr, "Broken pipe" in done.stderr) == (0, False, False), done.stderr
    assert json.loads((tmp_path / "r.json").read_text())


def test_what_nobody_reads_ends_as_what_is_read_does(tmp_path):
    slow = ("tune", "matmul:m=3000,n=3000,k=3000", "--max-trials", 1, "--timeout", 0.1, "--threads", 1, "--no-check")  # as in `test_no_valid_trial_is_status_1`
    assert unread(*slow, cwd=tmp_path).returncode == 1


@pytest.mark.parametrize("arguments", [("show", "0"), ("export", "-o", "x.jsonl")])
def test_output_that_nobody_reads_is_no_failure(records, tmp_path, arguments):
    done = unread(*arguments, "--records", records, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_output_that_has_no_room_is_one_line_and_the_json_is_written(tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tilewright", "tasks", TINY, "--json", tmp_path / "r.json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1], check=False)
    assert_one_line_error(done, "No space left on device")
    assert json.loads((tmp_path / "r.json").read_text())


def test_a_json_that_cannot_be_written_costs_nothing_that_is_printed(tmp_path, monkeypatch):
    def fail(path, content):
        raise UserError(f"{path}: it cannot be written: the disk is full")

    monkeypatch.setattr("tilewright.display.write_file", fail)
    done = tilewright("tasks", TINY, "--json", tmp_path / "r.json")
    assert TINY in done.stdout
    assert (done.returncode, done.stderr) == (2, f"tilewright: {tmp_path / 'r.json'}: it cannot be written: the disk is full\n")


@pytest.mark.parametrize("output", ["measured/x.parquet", "measured/campaign.db", "measured/1.about.json"])
def test_no_output_lies_among_the_measurements_that_are_read(tmp_path, output):
    (tmp_path / "measured").mkdir()
    assert_one_line_error(tilewright("train", tmp_path / "measured", "-o", tmp_path / output), "the same command uses")
    assert_one_line_error(tilewright("train", tmp_path / "measured", "-o", tmp_path / "measured" / "model.ubj"), "no .parquet file in it")


def test_ctrl_c_is_said_where_nothing_is_kept(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tilewright.inspect.best_schedules", interrupt)
    assert tilewright("best", "--records", "r.db") == (130, "", "tilewright: interrupted\n")


def test_lines_of_tables_are_whole_where_there_is_no_terminal(tmp_path):
    long = "conv2d:n=1,c=4,h=5,w=5,k=4,r=3,s=3,stride=1,pad=1,groups=1,dilation=1,layout=nhwc,epilogue=bias+relu"
    done = tilewright("tune", long, "--records", "r.db", "--max-trials", 2, cwd=tmp_path)
    assert sum(long in line and "GFLOP/s" not in line and "×" in line for line in done.stdout.splitlines()) == 1
    assert any(long in line and "tile_" in line for line in tilewright("best", "--records", "r.db", cwd=tmp_path).stdout.splitlines())


def test_rows_have_the_numbers_that_tasks_are_chosen_by(tmp_path):
    weights = {name: np.ones(shape, np.float32) for name, shape in (("a", (8, 4, 1, 1)), ("b", (4, 8, 1, 1)))}
    save(tmp_path / "net.onnx", [node("Conv", ["x", "a"], ["y"]), node("Conv", ["y", "b"], ["z"])], {"x": (1, 4, 6, 6)}, {"z": 4}, weights)
    listed = [line.split()[:2] for line in tilewright("tasks", "net.onnx", cwd=tmp_path).stdout.splitlines()]
    tuned = tilewright("tune", "net.onnx", "--tasks", 1, "--max-trials", 2, cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    assert [words for line in tuned.stdout.splitlines() if (words := line.split()[:2])[0] == "1"] == [words for words in listed if words[0] == "1"]


def test_bad_usage_is_status_2():
    wrong = (("--max-trials", "0"), ("--search", "luck"), ("--seed", "4294967296"), ("--timeout", "inf"), ("--max-seconds", "nan"), ("--batch", "9" * 12))
    for arguments in (("tune",), ("fly",), *(("tune", TINY, *options) for options in wrong)):
        done = tilewright(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("threads", ["9" * 20, "-" + "9" * 20])
def test_numbers_of_threads_that_no_record_can_have(tmp_path, threads):
    with Store(tmp_path / "r.db"):
        pass
    done = tilewright("best", "--records", tmp_path / "r.db", f"--threads={threads}")
    assert done.returncode == 2
    assert "--threads" in done.stderr


def test_every_search_has_its_name_on_the_command_line():
    assert [name.value for name in SearchName] == list(SEARCHES)


def start(*arguments):
    command = [sys.executable, "-m", "tilewright", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_records(path, n):
    stop = time.monotonic() + 60
    while time.monotonic() < stop:
        if path.exists():
            with Store(path) as store:
                if len(store.records()) >= n:
                    return
        time.sleep(0.05)
    raise AssertionError(f"no {n} records within a minute")


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


def test_ctrl_c_keeps_the_best_and_leaves_nothing_running(tmp_path):
    process = start("tune", TINY, "--records", tmp_path / "r.db", "--max-trials", 5000)
    wait_for_records(tmp_path / "r.db", 3)
    workers = children(process)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "tilewright: interrupted" not in error  # the last lines of the output say so
    assert "interrupted" in out
    assert workers
    assert not [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]
    assert tilewright("best", "--records", tmp_path / "r.db").returncode == 0


def test_kill_9_loses_no_record_and_leaves_nothing_running(tmp_path):
    process = start("tune", TINY, "--records", tmp_path / "r.db", "--max-trials", 5000)
    wait_for_records(tmp_path / "r.db", 3)
    workers = children(process)
    process.kill()
    process.communicate(timeout=30)
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert gone
    assert not alive
    with Store(tmp_path / "r.db") as store:
        n_before = len(store.records())
    assert n_before >= 3
    done = tilewright("tune", TINY, "--records", tmp_path / "r.db", "--max-trials", n_before + 3)
    assert done.returncode == 0, done.stderr


def test_two_tuners_share_a_records_file(tmp_path):
    # Some seconds of trials: on a busy machine one may start long after the other, and must still find something to do.
    both = [start("tune", TINY, "--records", tmp_path / "r.db", "--max-trials", 80, "--seed", seed) for seed in (1, 2)]
    for process in both:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    with Store(tmp_path / "r.db") as store:
        assert {record.seed for record in store.records()} == {1, 2}
