"""What tables of several experiments are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ir.files import write_file


def geometric_mean(values: Sequence[float] | pd.Series) -> float:
    """Not a number where there are none."""
    return float(np.exp(np.log(values).mean())) if len(values) else float("nan")


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def write_table(path: Path, text: str) -> str:
    """`text`, which stands in the file then."""
    write_file(path, f"{text}\n".encode())
    return text
