"""Files written in one step: a reader, and whoever is interrupted, finds the old one or the new one."""

from __future__ import annotations

import os
from pathlib import Path

from ir.errors import UserError


def make_directory(path: Path) -> None:
    """The directory and those above it, unless they are there; `UserError` where that cannot be."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: it is a file; expected a directory, or nothing yet")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the directory cannot be made: {error.strerror}") from None


def write_file(path: Path, content: bytes) -> None:
    """`UserError` where the file cannot be written; the old one is then still there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: it cannot be written: {error.strerror}") from None
