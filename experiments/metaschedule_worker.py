"""The process in which TVM MetaSchedule tunes a case and is timed, started by `experiments.metaschedule` with a Python that has TVM; one process a case.

It imports nothing of ours and reads JSON objects, a line each, from standard input. The first is the job; the answer says what tuning took. Each further
one asks for one more turn of calls of the best kernel. Whatever goes wrong ends the process, and the last line of its standard error says why.
With `--versions` it only answers the versions of what takes part.

The definitions are those with which MetaSchedule's developers measure it (`te_workload`): channels last, transposed convolution in the form whose
zeros unrolling removes. Weights are constants, as they are for us, so their layout is free: they are packed before any timing. Attention is defined here.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Text: TypeAlias = dict[str, str]  # the parameters of an operator text
Array: TypeAlias = "np.ndarray[Any, Any]"
Tensors: TypeAlias = Any  # of TE, inputs first and the output last: TVM has no types here

PACKAGES = ("apache-tvm", "apache-tvm-ffi", "xgboost", "numpy")
WEIGHTS = 1  # the place of the constant among the inputs of a convolution
WARM_CALLS, TIMED_CALLS, LONG_SECONDS = 3, 5, 0.3  # as in tilewright.turns
QUIET_SLICE_SECONDS, QUIET_SHARE, QUIET_LIMIT_SECONDS = 10e-3, 0.1, 3.0  # the same
SEED = 0  # of the inputs


@dataclass(frozen=True)
class Workload:
    """An operator for TVM. `tensors` defines it; `reference` computes the same in numpy from the inputs;
    `n_summed` is how many products or terms make an element. The layout of input number `constant` is free."""

    tensors: Callable[[Text], Tensors]
    reference: Callable[..., Array]
    n_summed: Callable[[Text], int]
    constant: int | None = None


def parse(text: str) -> tuple[str, Text]:
    """Name and parameters of an operator text."""
    name, _, rest = text.partition(":")
    return name, dict(part.split("=") for part in rest.split(","))


def number(given: Text, *names: str) -> int:
    """The one number that all these parameters are, in all dimensions; the definitions know no others."""
    found = {part for name in names for part in given[name].split("x")}
    if len(found) != 1:
        raise ValueError(f"no definition for different numbers: {', '.join(f'{name}={given[name]}' for name in names)}")
    return int(found.pop())


# --- convolutions ---------------------------------------------------------------------------------------------------

KERNEL = {"conv1d": "s", "conv2d": "rs", "conv3d": "trs", "conv_transpose2d": "rs", "capsule_conv2d": "rs"}  # parameters, by operator
SPATIAL = {"conv1d": "w", "conv2d": "hw", "conv3d": "dhw", "conv_transpose2d": "hw", "capsule_conv2d": "hw"}


def convolution(operator: str) -> Workload:
    def tensors(given: Text) -> Tensors:
        from tvm.s_tir.meta_schedule.testing import te_workload

        make = {"conv1d": te_workload.conv1d_nlc, "conv2d": te_workload.conv2d_nhwc, "conv3d": te_workload.conv3d_ndhwc}[operator]
        sizes = [int(given[name]) for name in ("n", *SPATIAL[operator], "c", "k")]
        kernel, options = number(given, *KERNEL[operator]), [number(given, name) for name in ("stride", "pad", "dilation")]
        if operator == "conv2d" and given["groups"] == given["c"] == given["k"] != "1":
            return te_workload.depthwise_conv2d_nhwc(*sizes[:-1], kernel, *options)
        return with_epilogue(make(*sizes, kernel, *options, int(given["groups"])), given["epilogue"])

    def reference(given: Text, x: Array, weights: Array, *bias: Array) -> Array:
        depthwise = given["groups"] == given["c"] == given["k"] != "1"
        by_tap = np.moveaxis(weights, 0, -2) if operator == "conv2d" and depthwise else weights  # (kernel, c/groups, k)
        kernel, groups = by_tap.shape[:-2], int(given["groups"])
        total = 0.0
        for tap in np.ndindex(*kernel):
            window = at_tap(given, x, kernel, tap)
            parts = zip(np.split(window, groups, axis=-1), np.split(by_tap[tap], groups, axis=-1), strict=True)
            total = total + np.concatenate([np.tensordot(part, of, axes=1) for part, of in parts], axis=-1)
        return np.maximum(total + bias[0], 0) if bias else np.asarray(total)

    return Workload(tensors, reference, lambda given: int(given["c"]) // int(given["groups"]) * n_taps(operator, given), WEIGHTS)


def with_epilogue(tensors: Tensors, epilogue: str) -> Tensors:
    from tvm import te, topi

    if epilogue == "none":
        return tensors
    if epilogue != "bias+relu":
        raise ValueError(f"no definition for epilogue={epilogue}")
    *inputs, out = tensors
    bias = te.placeholder((out.shape[-1],), name="bias")
    biased = te.compute(out.shape, lambda *index: out[index] + bias[index[-1]], name="biased")
    return *inputs, bias, topi.nn.relu(biased)


def transposed_tensors(given: Text) -> Tensors:
    from tvm.s_tir.meta_schedule.testing.te_workload import conv2d_transpose_nhwc

    others = {name: given[name] for name, usual in (("groups", "1"), ("dilation", "1"), ("output_pad", "0"), ("epilogue", "none")) if given[name] != usual}
    if others:
        raise ValueError(f"no definition for {others}")
    sizes = [int(given[name]) for name in ("n", "h", "w", "c", "k")]
    return conv2d_transpose_nhwc(*sizes, number(given, "r", "s"), number(given, "stride"), number(given, "pad"))


def transposed_reference(given: Text, x: Array, weights: Array) -> Array:
    stride, pad, (n, h, w, _), (r, s, _, k) = number(given, "stride"), number(given, "pad"), x.shape, weights.shape
    spread = np.zeros((n, (h - 1) * stride + r, (w - 1) * stride + s, k))
    for i, j in np.ndindex(r, s):
        spread[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride] += np.tensordot(x, weights[i, j], axes=1)
    return spread[:, pad : spread.shape[1] - pad, pad : spread.shape[2] - pad]


def capsule_tensors(given: Text) -> Tensors:
    from tvm.s_tir.meta_schedule.testing.te_workload import conv2d_capsule_nhwijc

    sizes = [int(given[name]) for name in ("n", "h", "w", "c", "k")]
    return conv2d_capsule_nhwijc(*sizes, number(given, "r", "s"), number(given, "stride"), number(given, "pad"), int(given["capsule"]))


def capsule_reference(given: Text, x: Array, weights: Array) -> Array:
    kernel = weights.shape[:2]
    taps = [np.tensordot(at_tap(given, x, kernel, tap), weights[tap], axes=([4, 5], [0, 2])) for tap in np.ndindex(*kernel)]
    return np.asarray(sum(taps))


def at_tap(given: Text, x: Array, kernel: Sequence[int], tap: Sequence[int]) -> Array:
    """What one tap of the kernel meets: for each output position, the padded input there."""
    stride, pad, rank = number(given, "stride"), number(given, "pad"), len(kernel)
    dilation = number(given, "dilation") if "dilation" in given else 1
    padded = np.pad(x, [(0, 0), *[(pad, pad)] * rank, *[(0, 0)] * (x.ndim - 1 - rank)])
    ends = [size - dilation * (extent - 1) for size, extent in zip(padded.shape[1:], kernel, strict=False)]
    return padded[(slice(None), *(slice(t * dilation, t * dilation + end, stride) for t, end in zip(tap, ends, strict=True)))]


def n_taps(operator: str, given: Text) -> int:
    return int(np.prod([int(given[name]) for name in KERNEL[operator]]))


# --- matrices -------------------------------------------------------------------------------------------------------


def product_tensors(given: Text) -> Tensors:
    from tvm.s_tir.meta_schedule.testing.te_workload import batch_matmul_nkkm

    if given["b"] != "variable" or given["epilogue"] != "none":
        raise ValueError(f"no definition for b={given['b']}, epilogue={given['epilogue']}")
    return batch_matmul_nkkm(*(int(given[name]) for name in ("batch", "m", "n", "k")))


def einsum_sizes(given: Text) -> dict[str, int]:
    """The extents of the transposed batched product, the one equation that has a definition."""
    if given["equation"] != "bihd.bjhd.bhij":
        raise ValueError(f"no definition for equation={given['equation']}")
    return {part[0]: int(part[1:]) for part in given["sizes"].split(".")}


def einsum_tensors(given: Text) -> Tensors:
    from tvm.s_tir.meta_schedule.testing.te_workload import transpose_batch_matmul

    sizes = einsum_sizes(given)
    return transpose_batch_matmul(sizes["b"], sizes["i"], sizes["h"], sizes["d"])


def norm_tensors(given: Text) -> Tensors:
    from tvm.s_tir.meta_schedule.testing.te_workload import norm_bmn

    if (given["function"], given["axes"]) != ("l2", "1x2"):
        raise ValueError(f"no definition for function={given['function']}, axes={given['axes']}")
    return norm_bmn(*map(int, given["shape"].split("x")))


def norm_terms(given: Text) -> int:
    _, rows, columns = map(int, given["shape"].split("x"))
    return rows * columns


def softmax_tensors(given: Text) -> Tensors:
    from tvm.s_tir.meta_schedule.testing.te_workload import softmax_mn

    return softmax_mn(*map(int, given["shape"].split("x")))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def attention_tensors(given: Text) -> Tensors:
    from tvm import te, topi

    batch, heads, queries, keys, dim = (int(given[name]) for name in ("batch", "heads", "queries", "keys", "dim"))
    q, k, v = (te.placeholder((batch, heads, length, dim), name=name) for name, length in (("q", queries), ("k", keys), ("v", keys)))
    along, over = te.reduce_axis((0, dim), name="d"), te.reduce_axis((0, keys), name="j")
    shape = (batch, heads, queries, keys)
    scores = te.compute(shape, lambda b, h, i, j: te.sum(q[b, h, i, along] * k[b, h, j, along], axis=[along]), name="scores")
    scaled = te.compute(shape, lambda *index: scores[index] * np.float32(dim**-0.5), name="scaled")
    weights = topi.nn.softmax(scaled, axis=-1)
    out = te.compute((batch, heads, queries, dim), lambda b, h, i, d: te.sum(weights[b, h, i, over] * v[b, h, over, d], axis=[over]), name="out")
    return q, k, v, out


def attention_reference(given: Text, q: Array, k: Array, v: Array) -> Array:
    return np.asarray(softmax(q @ np.swapaxes(k, -1, -2) * q.shape[-1] ** -0.5) @ v)


WORKLOADS = {
    **{operator: convolution(operator) for operator in ("conv1d", "conv2d", "conv3d")},
    "conv_transpose2d": Workload(
        transposed_tensors, transposed_reference, lambda given: int(given["c"]) * n_taps("conv_transpose2d", given), WEIGHTS,
    ),
    "capsule_conv2d": Workload(
        capsule_tensors, capsule_reference, lambda given: int(given["c"]) * int(given["capsule"]) * n_taps("capsule_conv2d", given), WEIGHTS,
    ),
    "batch_matmul": Workload(product_tensors, lambda given, a, b: a @ b, lambda given: int(given["k"])),
    "einsum": Workload(einsum_tensors, lambda given, a, b: np.moveaxis(a, 2, 1) @ np.moveaxis(b, 1, 3), lambda given: einsum_sizes(given)["d"]),
    "reduce": Workload(norm_tensors, lambda given, x: np.sqrt((x**2).sum(axis=(1, 2))), norm_terms),
    "softmax": Workload(softmax_tensors, lambda given, x: softmax(x), lambda given: int(given["shape"].split("x")[1])),
    "attention": Workload(attention_tensors, attention_reference, lambda given: int(given["keys"]) + int(given["dim"])),
}  # fmt: skip


# --- tuning ---------------------------------------------------------------------------------------------------------


def tune(job: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], object]]:
    """What tuning the case took and found, and a call of the best kernel, whose result was compared with numpy's."""
    import tvm
    from tvm import te
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule
    from tvm.s_tir.meta_schedule.builder.local_builder import default_build
    from tvm.target import codegen

    messages: list[str | None] = []  # of each trial, None where it was measured; nothing else keeps the reasons
    seconds: list[float | None] = []  # that it measured,
    known_at: list[float] = []  # and how long after tuning began: TVM learns of all trials of a round at its end

    @derived_object
    class Outcomes(meta_schedule.measure_callback.PyMeasureCallback):
        def apply(self, task_scheduler: Any, task_id: int, measure_candidates: Any, builder_results: Any, runner_results: Any) -> None:
            now = time.perf_counter() - start
            for built, ran in zip(builder_results, runner_results, strict=True):
                message = built.error_msg or ran.error_msg
                messages.append(failure_line(str(message)) if message else None)
                seconds.append(None if message else min(map(float, ran.run_secs)))
                known_at.append(now)

    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.CRITICAL)
    operator, given = parse(job["task"])
    workload = WORKLOADS[operator]
    tensors = workload.tensors(given)
    function = te.create_prim_func(list(tensors))
    if workload.constant is not None:
        function = function.with_attr("layout_free_buffers", [workload.constant])
    target = tvm.target.Target({"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu(), "num-cores": job["threads"]})
    callbacks = [*meta_schedule.MeasureCallback.create("default"), Outcomes()]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        builder = meta_schedule.builder.LocalBuilder(max_workers=job["threads"], timeout_sec=job["build_timeout_seconds"])
        database = meta_schedule.tir_integration.tune_tir(
            function, target, folder, job["trials"], num_trials_per_iter=job["trials_per_round"], num_tuning_cores=job["threads"],
            builder=builder, measure_callbacks=callbacks, seed=job["seed"],
        )  # fmt: skip
        tuning_seconds = time.perf_counter() - start
        schedule = meta_schedule.tir_integration.compile_tir(database, function, target)
    failures = Counter(message for message in messages if message is not None)
    if schedule is None:
        raise RuntimeError(f"none of {len(messages)} trials is valid: {dict(failures)}")
    generator = np.random.default_rng(SEED)
    inputs = [2 * generator.random([int(size) for size in tensor.shape], dtype=np.float32) - 1 for tensor in tensors[:-1]]
    packed = list(inputs)
    layout = constant_layout(schedule)
    if layout is not None:
        packed[WEIGHTS] = layout.map_tensor(tvm.runtime.tensor(inputs[WEIGHTS])).numpy()
    out = tvm.runtime.tensor(np.full([int(size) for size in tensors[-1].shape], np.nan, dtype=np.float32))
    arguments = [*(tvm.runtime.tensor(array) for array in packed), out]
    kernel = default_build(schedule.mod, target, None)["main"]
    kernel(*arguments)
    error = check(out.numpy(), workload.reference(given, *(array.astype(np.float64) for array in inputs)), workload.n_summed(given))
    answer = {
        "trials": len(messages),
        "failed": failures.total(),
        "failures": dict(failures),
        "seconds": seconds,
        "elapsed_seconds": known_at,
        "tuning_seconds": tuning_seconds,
        "packed": layout is not None,
        "error_of_tolerance": error,
        "target": str(target),
    }
    return answer, lambda: kernel(*arguments)


def failure_line(message: str) -> str:
    """The last line that says something: a Python error stands at the end of its trace."""
    return next((line.strip()[:200] for line in reversed(message.splitlines()) if line.strip()), "no message")


def constant_layout(schedule: Any) -> Any | None:
    """The layout that the schedule wants the constant to be packed in, as an index map; None if it is to stay as it is. The builder leaves the block
    that packs it out of the kernel."""
    from tvm import tirx

    for name in schedule.get_child_blocks(schedule.get_sblock("root")):
        block = schedule.get(name)
        if "meta_schedule.layout_rewrite_preproc" in block.annotations:
            return tirx.IndexMap([axis.var for axis in block.iter_vars], list(block.body.indices), None)
    return None


def check(found: Array, wanted: Array, n_summed: int) -> float:
    """The largest error as a part of what is tolerated; `RuntimeError` if it is larger. The roundings of a sum of n terms add up like a random walk,
    each as large as the partial sum, which is about as large as the result or, where terms cancel, as other elements of it."""
    tolerance = 4 * np.finfo(np.float32).eps * np.sqrt(n_summed) * (np.abs(wanted) + np.sqrt(np.mean(wanted**2)))
    error = float(np.max(np.abs(found - wanted) / tolerance))
    if not error <= 1:  # NaN too
        raise RuntimeError(f"TVM's kernel is wrong: the largest error is {error:.3g} times what is tolerated")
    return error


# --- timing ---------------------------------------------------------------------------------------------------------


def take_turn(run: Callable[[], object], warm_seconds: float, turn_seconds: float) -> dict[str, float | bool]:
    """Calls that do not count, then calls that do, timed one by one, as `tilewright.turns` does; whether the process is idle when it answers."""
    time_calls(run, warm_seconds, WARM_CALLS)
    seconds = time_calls(run, turn_seconds, TIMED_CALLS)
    return {"min_seconds": min(seconds), "median_seconds": statistics.median(seconds), "is_quiet": wait_for_quiet()}


def time_calls(run: Callable[[], object], seconds: float, least: int) -> list[float]:
    found: list[float] = []
    now = time.perf_counter()
    stop, long = now + seconds, now + max(seconds, LONG_SECONDS)
    while not found or now < stop or (len(found) < least and now < long):
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        found.append(now - start)
    return found


def wait_for_quiet() -> bool:
    """Threads that wait for the next call spin for a while, and would take a CPU from whoever is timed next; False if some still did when the time was up."""
    stop = time.perf_counter() + QUIET_LIMIT_SECONDS
    while time.perf_counter() < stop:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(QUIET_SLICE_SECONDS)
        if time.process_time() - used < QUIET_SHARE * (time.perf_counter() - start):
            return True
    return False


def versions() -> dict[str, str]:
    import tvm  # a wheel that is installed, but does not load, is no TVM

    assert tvm.__version__
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever TVM prints must not get among the answers

    def say(answer: object) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    if "--versions" in sys.argv:
        say(versions())
        return
    job = json.loads(sys.stdin.readline())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpus"])  # a pinned OpenMP library in the parent would have narrowed them
    answer, run = tune(job)
    wait_for_quiet()
    say(answer)
    for line in sys.stdin:
        say(take_turn(run, **json.loads(line)))


if __name__ == "__main__":
    main()
