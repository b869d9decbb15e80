"""Records for the tests of data/: random ones, and the ones of the golden files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from data.record import MAX_ROUND, Record, Round

MACHINE = {"cpu": "skylake-avx512", "features": "+avx512f,+fma", "lanes": 16, "vector_registers": 32, "l1_bytes": 32768,
           "l2_bytes": 1 << 20, "l3_bytes": 1 << 25, "threads": 2, "cpu_model": "Example™ CPU"}  # fmt: skip
VERSIONS = {"tilewright": "0.1.0", "llvmlite": "0.45.0"}
TASK = "matmul:m=64,n=48,k=7,b=constant,epilogue=none"


def record(**changes: Any) -> Record:
    """A valid record with some fields of choice."""
    base = Record(TASK, "tile_n", ("m.register", "n.register"), (4, 32), (2.5e-6, 2.25e-6, 3e-6), "", "", MACHINE, 2, 0, VERSIONS, 0, 0, 0.125)
    return replace(base, **changes)


def failed(failure: str = "crash", **changes: Any) -> Record:
    return record(seconds=(), failure=failure, message=f"the worker said {failure}", **changes)


def batch_round(**changes: Any) -> Round:
    base = Round(TASK, MACHINE, 2, 0, 1, "xgb", 64, 3, 0.851, 0.624, 30, 0.9, 1.0, 0.2, 1.5, 4.25, 0.125, 7.5)
    return replace(base, **changes)


def random_records(n: int, seed: int, **changes: Any) -> list[Record]:
    """n different trials, about a tenth of them failed."""
    rng = np.random.default_rng(seed)
    found = []
    for trial in range(n):
        row = tuple(rng.integers(1, 64, size=2))
        common = {"row": row, "trial": trial, "round": trial // 16, "elapsed_seconds": trial * 0.1 + rng.random(), "seed": seed} | changes
        if rng.random() < 0.1:
            found.append(failed(str(rng.choice(["build", "crash", "timeout"])), **common))
        else:
            found.append(record(seconds=tuple(rng.uniform(1e-6, 1e-3, size=int(rng.integers(1, 5)))), **common))
    return found


_printable = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
_texts = st.text(_printable, max_size=20)
_names = st.text(_printable, min_size=1, max_size=20)
_wholes = st.integers(-(2**63), 2**63 - 1)
_counts = st.integers(0, 2**63 - 1)
_times = st.floats(1e-12, 1e300)
_rounds = st.integers(0, MAX_ROUND)
_failures = st.sampled_from(["build", "crash", "timeout", "memory", "wrong", "illegal", "died"])
_scores = st.none() | st.floats(0, 1)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any valid record."""
    columns = draw(st.lists(_names, unique=True, max_size=5))
    row = draw(st.lists(_wholes, min_size=len(columns), max_size=len(columns)))
    failure = draw(st.just("") | _failures)
    seconds = () if failure else tuple(draw(st.lists(_times, min_size=1, max_size=4)))
    machine = draw(st.dictionaries(_names, _texts | _wholes, max_size=4))
    versions = draw(st.dictionaries(_names, _texts, max_size=3))
    kind = draw(st.sampled_from(["trial", "final"]))
    kept = kind == "final" and not failure and draw(st.booleans())
    return Record(
        draw(_names), draw(_names), tuple(columns), tuple(row), seconds, failure, draw(st.text()), machine, draw(st.integers(1, 512)), draw(_counts),
        versions, draw(_rounds), draw(_counts), draw(_times), draw(st.sampled_from(["warm", "cold"])), kind, kept,
    )  # fmt: skip


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    """Any valid round."""
    n_measured = draw(_counts)
    return Round(
        draw(_names), draw(st.dictionaries(_names, _texts | _wholes, max_size=4)), draw(st.integers(1, 512)), draw(_counts), draw(_rounds), draw(_names),
        n_measured, draw(st.integers(0, n_measured)), draw(_scores), draw(_scores), draw(_counts), draw(_scores), draw(_scores),
        draw(_times), draw(_times), draw(_times), draw(_times), draw(_times),
    )  # fmt: skip


def golden() -> tuple[list[Record], list[Round]]:
    """What every golden file of version 1 holds. Neither this nor those files change: they stand for what users have kept."""
    second = "conv2d:n=1,c=3,h=8,w=8,k=8,r=3,s=3,stride=1,pad=1x1x1x1,groups=1,dilation=1,layout=nhwc,epilogue=bias+relu"
    kept = [
        record(),
        failed("timeout", row=(8, 16), trial=1, elapsed_seconds=0.5),
        record(row=(6, 32), seconds=(1.5e-6, 1.75e-6), trial=2, round=1, elapsed_seconds=1.0),
        record(task=second, sketch="tile_k", columns=("oh.register",), row=(3,), machine=MACHINE | {"cpu_model": "other"}, threads=1, seed=7),
        record(kind="final", elapsed_seconds=2.0),
        record(row=(6, 32), seconds=(1.5e-6,), kind="final", kept=True, trial=2, elapsed_seconds=2.0, cache="cold"),
    ]
    return kept, [batch_round(), batch_round(task=second, round=0, model="random", pairwise_accuracy=None, recall_at_k=None, top_1=None, top_5=None)]


def golden_2() -> tuple[list[Record], list[Round]]:
    """What every golden file of version 2 holds; these stay as they are too."""
    kept, batches = golden()
    return [*kept, record(row=(5, 16), kind="sample", trial=3), record(row=(5, 16), kind="repeat", seconds=(2.5e-6,), trial=4)], batches
