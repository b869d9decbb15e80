"""Random operator texts of small programs, and inputs for them."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from ir.program import Program
from schedule.target import Target

EPILOGUES = ["none", "bias", "relu", "bias+relu", "add", "clip-1:0.5", "bias+add+sigmoid", "sigmoid", "clip0:6+add"]
MACHINES = [(4, 16), (4, 32), (8, 16), (16, 32)]


@st.composite
def matmul_parameters(draw: st.DrawFn, most: int = 40) -> dict[str, str]:
    size = st.one_of(st.sampled_from([1, 2, 3, 16, 17]), st.integers(1, most))
    return {
        **{name: str(draw(size)) for name in "mnk"},
        "b": draw(st.sampled_from(["constant", "variable"])),
        "epilogue": draw(st.sampled_from(EPILOGUES)),
    }


@st.composite
def conv2d_parameters(draw: st.DrawFn, most: int = 12) -> dict[str, str]:
    """Every one of them fits; with groups, depthwise too."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 16, 17, 32]))
    channels = st.sampled_from([1, 1, 2, 3]) if groups > 1 else st.sampled_from([1, 2, 3, 16, 20, 32])
    layout = draw(st.sampled_from(["nhwc", "nchw", "nchwc"]))
    c, k = draw(channels), draw(channels)
    if layout == "nchwc" and groups > 1:
        c = k = draw(st.sampled_from([1, 16])) if groups < 4 else 1  # groupings that blocks of channels allow
    r, s = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.sampled_from([(1, 1), (2, 2), (1, 3)]))
    pad = draw(st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (3, 0, 3, 0), (1, 2, 0, 1)]))
    h = draw(st.integers(max(1, dilation[0] * (r - 1) + 1 - pad[0] - pad[2]), most + 12))
    w = draw(st.integers(max(1, dilation[1] * (s - 1) + 1 - pad[1] - pad[3]), most + 12))
    return {
        "n": str(draw(st.integers(1, 2))), "c": str(c * groups), "h": str(h), "w": str(w), "k": str(k * groups), "r": str(r), "s": str(s),
        "stride": draw(st.sampled_from(["1", "2", "1x2", "5"])), "pad": "x".join(map(str, pad)), "groups": str(groups),
        "dilation": "x".join(map(str, dilation)), "layout": layout, "epilogue": draw(st.sampled_from(EPILOGUES)),
    }  # fmt: skip


def written(name: str, parameters: dict[str, str]) -> str:
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in parameters.items())


def operator_texts(most: int = 40) -> st.SearchStrategy[str]:
    matmul = matmul_parameters(most)
    batched = st.tuples(st.integers(1, 4), matmul).map(lambda given: {"batch": str(given[0]), **given[1]})
    return st.one_of(
        matmul.map(lambda given: written("matmul", given)),
        batched.map(lambda given: written("batch_matmul", given)),
        conv2d_parameters().map(lambda given: written("conv2d", given)),
        conv2d_parameters().map(lambda given: written("conv2d", given)),
    )


@st.composite
def targets(draw: st.DrawFn) -> Target:
    return target(*draw(st.sampled_from(MACHINES)), threads=draw(st.sampled_from([1, 2, 7, 64])))


def target(lanes: int = 16, vector_registers: int = 32, threads: int = 2) -> Target:
    return Target("generic", "", lanes, vector_registers, 1 << 15, 1 << 20, 1 << 25, threads)


def random_inputs(program: Program, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {tensor.name: rng.standard_normal(tensor.shape, dtype=np.float32) for tensor in program.inputs}
