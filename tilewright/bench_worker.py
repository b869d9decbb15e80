"""The process that benchmarks: `python -m tilewright.bench_worker`, started by `tilewright.bench` and of no use to anyone else.

It reads one JSON object from standard input and writes JSON objects, a line each, to standard output: the machine's limits first, then each task as it
is done, or the error that ended it. All contenders run in this one process and take turns.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from codegen.check import check_output, reference
from codegen.guards import WrongAnswer, spoil
from codegen.inputs import random_inputs
from codegen.kernel import Kernel, aligned_empty, as_aligned, build_candidate
from codegen.limits import FMA_TURNS, Walk, aligned, build_probes, measure_limits
from codegen.openmp import register_openmp
from codegen.timing import Timing, calibrate
from codegen.worker import die_with
from ir.errors import IllegalCandidate, Unsupported, UserError
from ir.task import Task, task
from schedule.measurement import Candidate
from schedule.rules import sketches
from schedule.target import Target
from tilewright.peers import PEERS, fastest, right_contenders
from tilewright.problem import Problem
from tilewright.turns import Contender, OtherWork, TurnOptions, take_turns

SEED = 0  # of the inputs
SETTING_ROUNDS = 3  # to find a peer's best setting
# Contenders of the comparison itself: one that only multiplies and adds, and one of our kernels once more, called alike, and many times in each call.
PEAK, AGAIN, IN_A_ROW = "peak", "again", "in a row"
ROW_TIMING = Timing(stretch_seconds=1e-3)  # of calls of `IN_A_ROW`: a thousand times as long as the clock and the way through Python


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get among the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    job = json.load(sys.stdin)
    die_with(job["parent"])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpus"])  # a pinned OpenMP library in the parent would have narrowed them (see codegen.openmp)
    for answer in work(job):
        print(json.dumps(answer), file=answers, flush=True)


def work(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The answers to a job made by `tilewright.bench`."""
    try:
        target, options = Target.from_json(job["target"]), TurnOptions(**job["options"])
        yield {"limits": measure_limits(target).to_json()}
        for entry in job["tasks"]:
            yield bench_task(task(entry["task"]), entry["tuned"], target, job["peers"], options)
    except UserError as error:
        yield {"error": str(error)}


def bench_task(of: Task, tuned: Mapping[str, Any] | None, target: Target, peers: Sequence[str], options: TurnOptions) -> dict[str, Any]:
    """Series of the FMA peak, of our schedules and of the peers. `tuned`: sketch and row, None where there are none."""
    inputs = {name: as_aligned(array) for name, array in random_inputs(of.key, SEED).items()}
    problem = Problem(of, inputs, target.threads)
    contenders, notes = our_contenders(problem, Candidate(tuned["sketch"], tuple(tuned["row"])) if tuned else None, target)
    trial = replace(options, rounds=SETTING_ROUNDS)
    for name in peers:
        settings, remarks = right_contenders(PEERS[name], problem, reference(of.key, SEED))
        contenders += [fastest(settings, trial)] if settings else []
        notes += remarks
    peak, peak_flops = peak_contender(target)
    with OtherWork() as other:
        series = take_turns([peak, *contenders], options)
    notes += [f"{each.contender}: {each.n_disturbed} turns began although other threads were busy" for each in series if each.n_disturbed]
    return {"task": of.key, "peak_flops": peak_flops, "other_cpus": other.cpus, "series": [each.to_json() for each in series], "notes": notes}


def our_contenders(problem: Problem, tuned: Candidate | None, target: Target) -> tuple[list[Contender], list[str]]:
    """The tuned schedule, if there is one, and the default one; then the first of them "again", with a result of its own: by how much the two
    differ is the noise of the comparison; and "in a row": what is left without calls. And notes on what is left out.

    All read the inputs of the problem where they are, as peers do that can: where large arrays happen to lie makes a difference of up to two thirds.
    """
    found, usable, notes = [], [], []
    for name, given in (("tuned", tuned), ("default", None)):
        if name == "tuned" and given is None:
            continue
        try:
            candidate = given or Candidate.default(sketches(problem.task.program, target)[0])
            found.append(our_contender(name, problem, candidate, target))
            usable.append(candidate)
        except (IllegalCandidate, Unsupported, WrongAnswer) as error:
            notes.append(f"{name} is left out: {error}")
    if found:
        found += [our_contender(AGAIN, problem, usable[0], target), our_contender(IN_A_ROW, problem, usable[0], target, ROW_TIMING)]
    return found, notes


def our_contender(name: str, problem: Problem, candidate: Candidate, target: Target, timing: Timing | None = None) -> Contender:
    """A kernel with its constants packed and its buffers in place; a call is one run, or as many as take the seconds of `timing`. `IllegalCandidate` if it
    cannot be built, `WrongAnswer` if it is not right."""
    of = problem.task
    register_openmp()
    kernel = Kernel(build_candidate(of, candidate, target))
    constants = {tensor.name: problem.inputs[tensor.name] for tensor in of.program.inputs if tensor.constant}
    bound, out = kernel.bind(**constants), aligned_empty(of.program.output.shape, of.program.output.dtype)
    run = partial(kernel.run, bound.pointers(problem.inputs, out))
    spoil(out)
    run(1)
    check_output(out, reference(of.key, SEED, kernel.code.algorithm))
    times = calibrate(run, timing)[0].calls if timing else 1
    return Contender(name, candidate.sketch, partial(run, times), alive=(bound, problem, out), times=times)


def peak_contender(target: Target) -> tuple[Contender, int]:
    """Multiply-adds in registers on all threads, and how many flops a call has."""
    probes = build_probes(target, target.threads)
    unused = aligned(probes.step * target.threads)
    run = probes.run("fma", target.threads, unused, unused, Walk(target.threads, FMA_TURNS * probes.step))
    return Contender(PEAK, "", partial(run, 1)), 2 * target.threads * FMA_TURNS * probes.step


if __name__ == "__main__":
    main()
