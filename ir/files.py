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
    wrong = {
        "it is a directory": os.path.isdir(path),
        "its directory does not exist": not os.path.exists(path.parent),
        "what should be its directory is a file": not os.path.isdir(path.parent),
        _NO_FILE: _is_taken(path),
        "its name is too long": bool(path.name) and _is_too_long(_part(path)),
        "nothing can be written to its directory": not os.access(path.parent, os.W_OK),
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
    """A file that takes the place of `path` when the block ends well, and leaves no trace when it does not. `OSError` as it comes, and where no file has
    that name, but a directory, a device, or a link."""
    if _is_taken(path):
        raise FileExistsError(errno.EEXIST, _NO_FILE)
    part = _part(path)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """Where this thread writes what is to take the place of `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")


def _is_too_long(path: Path) -> bool:
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


def _is_taken(path: Path) -> bool:
    """A link too: what is behind one such as /dev/stdout is open elsewhere, and whoever writes there would not see that it was replaced."""
    return os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path))
