"""What a user names to be tuned: an ONNX file or an operator text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from graph.network import Network, read_network
from graph.shapes import Shape
from ir.errors import UserError
from ir.operators import OPERATORS
from ir.task import task


def is_file(text: str) -> bool:
    """Whether the text names an ONNX file, which need not be there, rather than an operator."""
    return text.endswith(".onnx") or os.path.exists(text)


def resolve_target(text: str, shapes: Mapping[str, Shape]) -> Network:
    """The network in the ONNX file `text`, with inputs of these shapes, or the network of the one task that is the operator text `text`."""
    operator = text.strip().partition(":")[0]
    if is_file(text):
        return read_network(Path(text), shapes)
    if operator not in OPERATORS:
        raise UserError(f"{text!r} is neither a file nor an operator text such as matmul:m=512,n=512,k=512 (operators: {', '.join(OPERATORS)})")
    if shapes:
        raise UserError(f"--shape {next(iter(shapes))}: only a network has inputs to give shapes to, and {text!r} is an operator text")
    return Network(None, (task(text),), ())
