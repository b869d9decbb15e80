"""An AArch64 machine on any other: a function of object code becomes a small program, which an emulator runs on memory that it shares with this process.

Wanted are qemu's emulator of user programs and a linker for AArch64; `missing` says what is not there.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from llvmlite import binding as llvm

from codegen.build import target_machine
from codegen.kernel import Array, DType
from codegen.workspace import ALIGNMENT
from ir.program import FLOAT
from schedule.target import Target

TRIPLE = "aarch64-unknown-linux-gnu"
EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
LINKERS = ("ld.lld", "aarch64-linux-gnu-ld")
MEMORY_BYTES = 1 << 28  # only what is touched takes room
BASE = 1 << 36  # where a program has the memory

# Calls of the operating system take their number in x8. `system` is `mov x8, x6`, `svc #0`, `ret` in machine code, for LLVM has a parser of the
# host's assembly alone. The program: mmap(BASE, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, standard input, 0); the function; exit(0).
START = f"""
@system = constant [3 x i32] [i32 {0xAA0603E8}, i32 {0xD4000001}, i32 {0xD65F03C0}], section ".text.system"
define void @_start() {{
  call i64 @system(i64 {BASE}, i64 {MEMORY_BYTES}, i64 3, i64 17, i64 0, i64 0, i64 222)
  call void @FUNCTION(ptr inttoptr (i64 POINTERS to ptr))
  call i64 @system(i64 0, i64 0, i64 0, i64 0, i64 0, i64 0, i64 93)
  unreachable
}}
declare void @FUNCTION(ptr)
"""

# The one function of the C library that LLVM was seen to call; without another one programs do not link.
MEMSET = """
define ptr @memset(ptr %to, i32 %value, i64 %n) {
  %byte = trunc i32 %value to i8
  br label %head
head:
  %i = phi i64 [0, %0], [%next, %body]
  %more = icmp ult i64 %i, %n
  br i1 %more, label %body, label %end
body:
  %target = getelementptr i8, ptr %to, i64 %i
  store i8 %byte, ptr %target
  %next = add i64 %i, 1
  br label %head
end:
  ret ptr %to
}
"""


@cache
def found(commands: Sequence[str]) -> str | None:
    """Where the first of them is that this machine has."""
    return next((path for command in commands if (path := shutil.which(command)) is not None), None)


@cache
def compiles() -> bool:
    """Whether this LLVM has AArch64 among its targets."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        llvm.Target.from_triple(TRIPLE)
    except RuntimeError:
        return False
    return True


def missing() -> str | None:
    """Why nothing can be run; None if it can."""
    if not compiles():
        return "this LLVM cannot compile for AArch64"
    wanted = {"emulator": EMULATORS, "linker": LINKERS}
    return next((f"there is no {kind} for AArch64: neither {' nor '.join(names)}" for kind, names in wanted.items() if found(names) is None), None)


class Emulator:
    """Memory, handed out piece by piece, and functions that run on it."""

    def __init__(self) -> None:
        self._file = os.memfd_create("memory")
        weakref.finalize(self, os.close, self._file)
        os.truncate(self._file, MEMORY_BYTES)
        self._memory = np.frombuffer(mmap.mmap(self._file, MEMORY_BYTES), np.uint8)
        self._used = 0

    def empty(self, shape: Sequence[int], dtype: DType = FLOAT) -> Array:
        """As `codegen.kernel.aligned_empty`."""
        start, n_bytes = self._used, np.dtype(dtype).itemsize * math.prod(shape)
        self._used += -(-n_bytes // ALIGNMENT) * ALIGNMENT
        return self._memory[start : start + n_bytes].view(dtype).reshape(shape)

    def load(self, object_code: bytes, target: Target) -> EmulatedCode:
        """As `codegen.build.load_object`."""
        return EmulatedCode(self, object_code, target)

    def call(self, object_code: bytes, name: str, target: Target, pointers: ctypes.Array) -> None:
        """The function of this name, with pointers into this memory as its argument."""
        table = self.empty((len(pointers),), "uint64")
        table[...] = [self._emulated(pointer) for pointer in pointers]
        start = START.replace("FUNCTION", name).replace("POINTERS", str(self._emulated(table.ctypes.data))) + MEMSET
        start_code = target_machine(target, TRIPLE).emit_object(llvm.parse_assembly(start, llvm.create_context()))
        with tempfile.TemporaryDirectory() as directory:
            program, *objects = (Path(directory) / name for name in ("program", "start.o", "code.o"))
            for path, code in zip(objects, (start_code, object_code), strict=True):
                path.write_bytes(code)
            self._run(found(LINKERS), "-o", program, *objects)
            self._run(found(EMULATORS), program)

    def _emulated(self, address: int) -> int:
        """Where a program has what is here in this process."""
        at = address - self._memory.ctypes.data
        assert 0 <= at < MEMORY_BYTES, "a buffer that the emulator does not share"
        return BASE + at

    def _run(self, command: str, *arguments: str | Path) -> None:
        done = subprocess.run([command, *arguments], check=False, stdin=self._file, capture_output=True, text=True)
        assert done.returncode == 0, f"{command} ended with status {done.returncode}: {done.stderr}"


@dataclass(frozen=True)
class EmulatedCode:
    """Stands in for `codegen.build.LoadedCode`."""

    emulator: Emulator
    object_code: bytes
    target: Target

    def function(self, name: str, *_: type) -> Callable[[ctypes.Array], None]:
        return partial(self.emulator.call, self.object_code, name, self.target)
