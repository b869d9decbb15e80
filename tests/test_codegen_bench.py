"""What a candidate may not do while it is checked: write into its inputs, or leave it to an earlier run to be right."""

import numpy as np
import pytest

from codegen.bench import Bench
from codegen.guards import WrongAnswer
from codegen.inputs import guarded_inputs, random_inputs
from codegen.kernel import build
from codegen.machine import detect_machine
from ir.task import task
from schedule.measurement import Candidate
from schedule.rules import sketches

TASK = task("matmul:m=5,n=8,k=6,b=variable")
SEED = 77  # of inputs that no other test reads: one of these writes into them


@pytest.fixture
def bench() -> Bench:
    guarded_inputs.cache_clear()
    target = detect_machine(1).target
    sketch = sketches(TASK.program, target)[0]
    return Bench(build(TASK, sketch, np.array(Candidate.default(sketch).row), target), SEED)


def test_a_right_kernel_is_right_again_and_again(bench: Bench) -> None:
    bench.check()
    bench.run(3)
    bench.check()


def test_a_kernel_that_writes_into_an_input(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.check()
    run = bench.run

    def run_and_write(times: int) -> None:
        run(times)
        random_inputs(TASK.key, SEED)["a"][2, 3] += 1

    monkeypatch.setattr(bench, "run", run_and_write)
    with pytest.raises(WrongAnswer, match="wrote into its input a"):
        bench.check()
    guarded_inputs.cache_clear()


def test_what_an_earlier_run_left_does_not_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.check()
    monkeypatch.setattr(bench, "run", lambda times: None)
    with pytest.raises(WrongAnswer, match="40 of 40 elements are wrong"):
        bench.check()
