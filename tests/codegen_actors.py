"""Jobs that act out what can go wrong in a worker. Tests give this module to their workers, which start fast: it needs no numpy and no LLVM."""

import ctypes
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from codegen.protocol import Answer, Message
from ir.errors import IllegalCandidate, InternalError


def echo(argument: str) -> str:
    return argument


def process_id(argument: str) -> str:
    return str(os.getpid())


def sleep(argument: str) -> str:
    time.sleep(float(argument))
    return argument


def loop(argument: str) -> str:
    while True:
        pass


def start_child(argument: str) -> str:
    """A child of the worker sleeps; its process id."""
    return str(subprocess.Popen(["sleep", "600"]).pid)


def segfault(argument: str) -> str:
    ctypes.string_at(8)
    return "not reached"


def abort_for_memory(argument: str) -> str:
    """As C++ does."""
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def allocate(argument: str) -> str:
    kept = []
    while True:
        kept.append(bytearray(1 << 28))


def map_memory(argument: str) -> str:
    """More than the limit at once; mmap says so with an OSError, and that ends the worker."""
    mmap.mmap(-1, 1 << 40)
    return "not reached"


def leave(argument: str) -> str:
    os._exit(int(argument))


def raise_key_error(argument: str) -> str:
    raise KeyError(argument)


def raise_illegal(argument: str) -> str:
    raise IllegalCandidate(argument)


def raise_internal(argument: str) -> str:
    raise InternalError(f"{argument}\nand the whole text of the module")


def flood(argument: str) -> str:
    """So many MiB to standard output and to standard error."""
    for _ in range(int(argument)):
        os.write(1, b"o" * (1 << 20))
        os.write(2, b"e" * (1 << 20))
    return argument


def flood_and_leave(argument: str) -> str:
    flood(argument)
    os.write(2, b"\nlast words\n")
    os._exit(5)


def imported(argument: str) -> str:
    """Where the worker found a module."""
    return str(sys.modules[argument].__file__)


PARTS: Mapping[str, Callable[[str], str]] = {
    part.__name__: part
    for part in (
        echo, process_id, sleep, loop, start_child, segfault, abort_for_memory, allocate, map_memory, leave, raise_key_error, raise_illegal,
        raise_internal, flood, flood_and_leave, imported,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Act:
    """Play a part of `PARTS`; the answer is what it returns."""

    part: str
    argument: str = ""
    name: ClassVar[str] = "act"

    def to_message(self) -> Message:
        return Message({"job": self.name, "part": self.part, "argument": self.argument})

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(message.header["part"], message.header["argument"])

    def run(self) -> Answer:
        return Answer({"said": PARTS[self.part](self.argument)})


JOBS = {Act.name: Act}
FAILURES = {IllegalCandidate: "illegal", InternalError: "build", MemoryError: "memory"}
