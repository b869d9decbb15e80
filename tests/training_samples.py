"""Measurements on a make-believe machine, with sources, as directories of `tilewright record` hold them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from data_samples import VERSIONS
from search_samples import TARGET, seconds_of

from data import exchange
from data.measurements import ABOUT
from data.record import Record, machine_id
from ir.task import task
from schedule.rules import sketches
from search.campaign import draw

MACHINE = {"cpu_model": "Example CPU", **{name: value for name, value in TARGET.to_json().items() if name != "threads"}}

# By task, how often which network or operator family uses it. "b" is the only network with softmax; its matmul is "a"'s 1×1 convolution too.
SOURCES = {
    "matmul:m=96,n=160,k=200": {"a": 1},
    "matmul:m=64,n=96,k=32": {"b": 2},
    "conv2d:n=1,c=32,h=8,w=8,k=96,r=1,s=1": {"a": 1},
    "softmax:shape=32x64,axis=1": {"b": 1},
    "softmax:shape=64x128,axis=1": {"operator SFM": 1},
    "matmul:m=48,n=48,k=48": {"c": 1, "operator GMM": 1},
    "matmul:m=32,n=64,k=128": {"c": 1},
}


def records(text: str, n: int = 40, repeats: int = 4, **changes: object) -> list[Record]:
    """n candidates, some measured twice."""
    of = task(text)
    known = {sketch.name: sketch for sketch in sketches(of.program, TARGET)}
    found = []
    for i, candidate in enumerate(draw(tuple(known.values()), n, 0, of.key)):
        sketch = known[candidate.sketch]
        seconds = float(seconds_of(sketch, np.array([candidate.row]))[0])
        columns = sketch.space.names
        fields = {"machine": MACHINE, "kind": "sample" if i % 2 else "trial", "seed": 0} | changes
        found.append(Record(of.key, candidate.sketch, columns, candidate.row, (seconds,), "", "", threads=2, versions=VERSIONS, round=0, trial=i,
                            elapsed_seconds=float(i), **fields))  # fmt: skip
    again = [Record(**{**each.to_json(), "kind": "repeat", "seconds": (each.seconds[0] * 1.01,)}) for each in found[:repeats]]
    return found + again


def directory(path: Path, sources: dict[str, dict[str, int]] = SOURCES, **changes: object) -> Path:
    """A measured directory of these tasks; where there is one of another machine, both are in it."""
    path.mkdir(exist_ok=True)
    found = [record for text in sources for record in records(text, **changes)]
    part = path / f"{machine_id(found[0].machine)}.parquet"
    exchange.write(part, found)
    keys = {task(text).key: uses for text, uses in sources.items()}
    part.with_suffix(ABOUT).write_text(json.dumps({"limits": {}, "sources": keys}))
    return path
