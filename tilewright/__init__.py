"""Tilewright finds fast CPU code for the layers of a neural network by learned search.

    import tilewright as tw
    task = tw.matmul(512, 512, 512)
    result = tw.tune(task, records="mm.db", max_trials=256, seed=0)
    kernel = result.compile()
    c = kernel(a, b)

Names are imported when they are first used, so that `tilewright --help` does not wait for numpy and LLVM.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from ir.errors import Unsupported, UserError
    from ir.task import Task
    from tilewright.api import Result, batch_matmul, compile, conv2d, matmul, operator, tasks, tune

_HOMES = {
    **dict.fromkeys(("Result", "batch_matmul", "compile", "conv2d", "matmul", "operator", "tasks", "tune"), "tilewright.api"),
    **dict.fromkeys(("UserError", "Unsupported"), "ir.errors"),
    "Task": "ir.task",
}

__all__ = ["Result", "Task", "Unsupported", "UserError", "batch_matmul", "compile", "conv2d", "matmul", "operator", "tasks", "tune"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
