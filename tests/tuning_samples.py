"""Records and rounds of made-up tunings, such as the tuner would leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.record import Record, Round
from data.store import Store
from tests import data_samples

MATMUL = "matmul:m=64,n=48,k=32,b=constant,epilogue=none"
CONV = "conv2d:n=1,c=64,h=56,w=56,k=128,r=3,s=3,stride=2,pad=1,groups=1,dilation=1,layout=nhwc,epilogue=bias+relu"
LONGEST = "conv2d:n=16,c=1024,h=112,w=112,k=1024,r=11,s=11,stride=2,pad=5,groups=16,dilation=2,layout=nchwc,epilogue=bias+add+clip0:6"
FOREIGN = 'gemm℠ 漢字 $x^{2 & <script>alert("x")</script>'


def trials(*seconds: float | None, task: str = MATMUL, batch: int = 4, **changes: Any) -> list[Record]:
    """A trial a number, one a second, the first of them the default schedule; None is a failure."""
    found = []
    for i, each in enumerate(seconds):
        common = {"task": task, "row": (i + 1, 32), "trial": i, "round": i // batch, "elapsed_seconds": i + 1.0} | changes
        found.append(data_samples.failed("timeout", **common) if each is None else data_samples.record(seconds=(each, 2 * each), **common))
    return found


def final(of: Record, seconds: float, *, kept: bool = False, **changes: Any) -> Record:
    return data_samples.record(task=of.task, row=of.row, seconds=(seconds,), trial=99, kind="final", kept=kept, elapsed_seconds=99.0, **changes)


def batch_round(number: int, **changes: Any) -> Round:
    return data_samples.batch_round(**{"task": MATMUL, "round": number, "n_measured": 4, "n_failed": 0, "k": 2} | changes)


def tuning(task: str, n_trials: int, seed: int, *, batch: int = 16, **changes: Any) -> tuple[list[Record], list[Round]]:
    """A tuning that gets better from batch to batch; some trials fail; at the end the default and the best are measured again."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(1e-5, 1e-3)
    seconds: list[float | None] = [scale * (1 + rng.exponential(2.0 ** (1 - i // batch))) if rng.random() > 0.08 else None for i in range(n_trials)]
    seconds[0] = 2 * scale
    records = trials(*seconds, task=task, batch=batch, **changes)
    best = min(records, key=lambda record: record.best_seconds)
    records += [final(records[0], 2 * scale, **changes), final(best, best.best_seconds, kept=True, **changes)]
    scores = dict.fromkeys(("pairwise_accuracy", "recall_at_k", "top_1", "top_5"))
    rounds = [
        batch_round(
            i, task=task, n_measured=batch, k=8, elapsed_seconds=float(i), **(scores if i == 0 else dict.fromkeys(scores, rng.uniform(0.5, 1))), **changes
        )
        for i in range(-(-n_trials // batch))
    ]
    return records, rounds


def store(path: Path, records: Sequence[Record], rounds: Sequence[Round] = ()) -> Path:
    """A records file that holds them."""
    with Store(path) as opened:
        opened.append(records, rounds)
    return path
