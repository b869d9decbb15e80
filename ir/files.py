"""Files written in one step: a reader, and whoever is interrupted, finds the old one or the new one."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ir.errors import UserError

_NO_FILE = "something that is no file has its name"


def make_directory(path: Path, mode: int = 0o777) -> None:
    """The directory and those above it, unless they are there; `UserError` where that cannot be. `mode`: what the directory itself allows, at most."""
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{path}: it is a file; expected a directory, or nothing yet") from None
    except OSError as error:
        raise UserError(f"{path}: the directory cannot be made: {error.strerror}") from None


def check_place(path: Path) -> None:
    """`UserError` where `write_file` would find no place for the file. To be asked before what takes long."""
    place = _behind_links(path)
    wrong = {
        "its directory does not exist": not os.path.exists(place.parent),
        "what should be its directory is a file": not os.path.isdir(place.parent),
        _NO_FILE: os.path.exists(place) and not os.path.isfile(place),
        "nothing can be written to its directory": not os.access(place.parent, os.W_OK),
    }
    for reason, is_so in wrong.items():
        if is_so:
            raise UserError(f"{path}: it cannot be written: {reason}")


def write_file(path: Path, content: bytes) -> None:
    """`UserError` where the file cannot be written; the old one is then still there."""
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"{path}: it cannot be written: {error.strerror}") from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and leaves no trace when it does not. A link stays: it is the file behind it that is
    replaced. `OSError` as it comes, also for a device such as /dev/stdout."""
    place = _behind_links(path)
    if os.path.exists(place) and not os.path.isfile(place):
        raise FileExistsError(errno.EEXIST, _NO_FILE)
    part = place.with_name(f".{place.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def _behind_links(path: Path) -> Path:
    return Path(os.path.realpath(path))
