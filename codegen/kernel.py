"""Built candidates and the callables made of them: numpy arrays in, numpy array out."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codegen.build import HOST_TRIPLE, LoadedCode, compile_object, load_object
from codegen.emit import emit
from codegen.lower import Lowered, lower
from codegen.openmp import register_openmp
from codegen.workspace import ALIGNMENT, argument_buffers, workspace_layout
from ir.errors import IllegalCandidate, UserError
from ir.program import FLOAT, FLOAT_BYTES, Tensor
from ir.task import Task, task
from schedule.algorithms import DIRECT, algorithm_of
from schedule.measurement import Candidate
from schedule.rules import sketches
from schedule.sketch import Sketch
from schedule.target import Target

Array = NDArray[Any]  # of fp32, or of the type of the tensor that it holds
DType = str | np.dtype[Any]
Empty = Callable[[Sequence[int], DType], Array]  # makes buffers


@dataclass(frozen=True)
class Argument:
    """One pointer of a kernel: its buffer, and for a prepared one the constant tensor that it is packed from."""

    name: str
    shape: tuple[int, ...]
    scope: str
    source: str = ""


@dataclass(frozen=True)
class Code:
    """A built candidate: all that is needed to run it, in this process or another."""

    task: str
    arguments: tuple[Argument, ...]
    workspace_bytes: int  # of the kernel
    prepare_bytes: int  # of what prepares its constant operands: theirs is needed once, and may be as large as all weights
    target: Target
    object_code: bytes
    algorithm: str = DIRECT
    streams: bool = False  # the result must be aligned as `aligned_empty` is

    def header(self) -> dict[str, Any]:
        """Everything but the object code, for JSON."""
        return {
            "task": self.task,
            "arguments": [asdict(argument) for argument in self.arguments],
            "workspace_bytes": self.workspace_bytes,
            "prepare_bytes": self.prepare_bytes,
            "target": self.target.to_json(),
            "algorithm": self.algorithm,
            "streams": self.streams,
        }

    @staticmethod
    def from_header(header: Mapping[str, Any], object_code: bytes) -> Code:
        arguments = tuple(Argument(a["name"], tuple(a["shape"]), a["scope"], a["source"]) for a in header["arguments"])
        target = Target.from_json(header["target"])
        sizes = header["workspace_bytes"], header["prepare_bytes"]
        return Code(header["task"], arguments, *sizes, target, object_code, header["algorithm"], header["streams"])


def build_candidate(of: Task, candidate: Candidate, target: Target) -> Code:
    """What `build` makes of it; `IllegalCandidate` also if the task has no such sketch."""
    return build(of, find_sketch(of, candidate.sketch, target), np.array(candidate.row, dtype=np.int64), target)


def find_sketch(of: Task, name: str, target: Target) -> Sketch:
    """The sketch of this name; `IllegalCandidate` if the task has none."""
    known = known_sketches(of.key, target)
    if name not in known:
        raise IllegalCandidate(f"no sketch {name!r} for {of.key} (known: {', '.join(known)})")
    return known[name]


@lru_cache(16)
def known_sketches(key: str, target: Target) -> Mapping[str, Sketch]:
    """By name. Kept, because making them takes as long as lowering a candidate."""
    return {sketch.name: sketch for sketch in sketches(task(key).program, target)}


def nests(lowered: Lowered) -> list[Any]:
    """The kernel's nest, then the preparing nests in order of their tensors' names."""
    return [lowered.kernel, *(lowered.prepare[name] for name in sorted(lowered.prepare))]


def llvm_text(lowered: Lowered, target: Target) -> str:
    return emit(nests(lowered), target.lanes, target.threads)


def build(of: Task, sketch: Sketch, row: NDArray[np.int64], target: Target, triple: str = HOST_TRIPLE) -> Code:
    """Lower, emit and compile one candidate. `triple`: see `codegen.build`; what is not the host's cannot be loaded here."""
    lowered = lower(sketch, row, target)
    sources = {nest.buffers[1].name: name for name, nest in lowered.prepare.items()}
    arguments = tuple(Argument(b.name, b.shape, b.scope, sources.get(b.name, "")) for b in argument_buffers(lowered.kernel))
    workspace, *preparing = (workspace_layout(nest).total_bytes(target.threads) for nest in nests(lowered))
    object_code = compile_object(llvm_text(lowered, target), target, triple)
    return Code(of.key, arguments, workspace, max(preparing, default=0), target, object_code, algorithm_of(sketch.name), lowered.streams)


def aligned_empty(shape: Sequence[int], dtype: DType = FLOAT) -> Array:
    """Uninitialized array that begins at a multiple of `ALIGNMENT` bytes."""
    n_bytes = np.dtype(dtype).itemsize * math.prod(shape)
    raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes].view(dtype).reshape(shape)


def aligned_copy(array: NDArray[Any], empty: Empty = aligned_empty) -> Array:
    result = empty(array.shape, array.dtype)
    result[...] = array
    return result


def as_aligned(array: Array) -> Array:
    """The array itself where it is contiguous and begins where `aligned_empty` would, otherwise a copy that does."""
    return array if array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0 else aligned_copy(array)


class Kernel:
    """A loaded candidate. Call it with the task's input arrays in order; or `bind` the constant ones first.

    Calls from several threads take turns: the workspace is shared.
    """

    def __init__(self, code: Code, empty: Empty = aligned_empty, load: Callable[[bytes, Target], LoadedCode] = load_object) -> None:
        """`empty` makes the buffers of a kernel, aligned as `aligned_empty` makes them; `load` makes functions of its object code."""
        if code.target.threads > 1 and register_openmp() is None:
            raise UserError(f"this kernel was built for {code.target.threads} threads, and no libgomp is found to run them")
        self.code = code
        self.task = task(code.task)
        self._loaded = load(code.object_code, code.target)
        self._run = self._loaded.function("kernel", ctypes.c_void_p)
        self._repeat = self._loaded.function("repeat", ctypes.c_void_p, ctypes.c_int64)
        self.empty = empty
        self._workspace = empty((code.workspace_bytes // FLOAT_BYTES,), FLOAT)
        self._lock = threading.Lock()
        self._inputs = {tensor.name: tensor for tensor in self.task.program.inputs}

    def __call__(self, *arrays: NDArray[Any], out: Array | None = None) -> Array:
        inputs = self.task.program.inputs
        if len(arrays) != len(inputs):
            raise TypeError(f"{self.task.key} takes {len(inputs)} arrays ({', '.join(t.name for t in inputs)}), got {len(arrays)}")
        given = dict(zip((tensor.name for tensor in inputs), arrays, strict=True))
        constants = {tensor.name: given[tensor.name] for tensor in inputs if tensor.constant}
        bound = self.bind(**constants)
        return bound(*(given[tensor.name] for tensor in inputs if not tensor.constant), out=out)

    def bind(self, **constants: NDArray[Any]) -> BoundKernel:
        """This kernel with its constant operands packed, all of them by name; what is left are the other inputs in order."""
        names = [tensor.name for tensor in self.task.program.inputs if tensor.constant]
        if set(constants) != set(names):
            raise TypeError(f"{self.task.key} has the constant operands {names}, got {sorted(constants)}")
        return BoundKernel(self, {name: self.checked(name, array) for name, array in constants.items()})

    def prepare(self, name: str, shape: Sequence[int], constant: Array) -> Array:
        """The packed form, of this shape, of a constant operand."""
        packed = self.empty(shape, constant.dtype)
        workspace = self.empty((self.code.prepare_bytes // FLOAT_BYTES,), FLOAT)
        pointers = (ctypes.c_void_p * 3)(constant.ctypes.data, packed.ctypes.data, workspace.ctypes.data)
        with self._lock:
            self._loaded.function(f"prepare_{name}", ctypes.c_void_p)(pointers)
        return packed

    def checked(self, name: str, array: NDArray[Any]) -> Array:
        """`array`, contiguous, in the tensor's type and shape; TypeError or ValueError says what is wrong."""
        check_array(f"{self.task.key}: {name}", array, self._inputs[name])
        flags = array.flags
        return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=["C", "ALIGNED"])

    def run(self, pointers: Any, times: int = 1) -> None:
        """Run on an array of pointers made by `BoundKernel.pointers`, `times` times in a row."""
        with self._lock:
            if times == 1:
                self._run(pointers)
            else:
                self._repeat(pointers, times)

    @property
    def workspace(self) -> Array:
        return self._workspace


def check_array(what: str, array: object, tensor: Tensor) -> None:
    """TypeError or ValueError if this is no array of the tensor's type and shape."""
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):  # a mask would be ignored
        raise TypeError(f"{what} must be a numpy array, got {type(array).__name__}")
    if array.dtype != tensor.dtype:
        raise TypeError(f"{what} must be {tensor.dtype}, got {array.dtype}")
    if array.shape != tensor.shape:
        raise ValueError(f"{what} must have shape {tensor.shape}, got {array.shape}")


def check_out(what: str, out: Array, tensor: Tensor, inputs: Iterable[Array]) -> None:
    """TypeError or ValueError if `out` cannot take the result."""
    check_array(what, out, tensor)
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError(f"{what} must be contiguous, aligned and writeable")
    if any(np.may_share_memory(out, array) for array in inputs):
        raise ValueError(f"{what} must not overlap an input")


class BoundKernel:
    """A kernel whose constant operands are packed: call it with the remaining inputs."""

    def __init__(self, kernel: Kernel, constants: Mapping[str, Array]) -> None:
        self.kernel = kernel
        # Copies, so that it does not matter what becomes of the caller's arrays: of packed constants nothing else is kept.
        self._constants = {a.name: aligned_copy(constants[a.name], kernel.empty) for a in kernel.code.arguments if a.name in constants}
        self._prepared = {a.name: kernel.prepare(a.source, a.shape, constants[a.source]) for a in kernel.code.arguments if a.scope == "prepared"}
        self._variables = [tensor for tensor in kernel.task.program.inputs if not tensor.constant]
        # Told once, for numpy takes a microsecond to tell an address; the arrays are kept as long.
        self._addresses = {name: array.ctypes.data for name, array in (self._constants | self._prepared).items()}
        self._workspace_address = kernel.workspace.ctypes.data

    def __call__(self, *arrays: NDArray[Any], out: Array | None = None) -> Array:
        if len(arrays) != len(self._variables):
            names = ", ".join(tensor.name for tensor in self._variables)
            raise TypeError(f"{self.kernel.task.key} with its constants bound takes {len(self._variables)} arrays ({names}), got {len(arrays)}")
        given = {tensor.name: self.kernel.checked(tensor.name, array) for tensor, array in zip(self._variables, arrays, strict=True)}
        output = self.kernel.task.program.output
        if out is None:
            out = aligned_empty(output.shape, output.dtype)
        else:
            check_out(f"{self.kernel.task.key}: out", out, output, given.values())
        is_usable = not self.kernel.code.streams or out.ctypes.data % ALIGNMENT == 0
        result = out if is_usable else aligned_empty(output.shape, output.dtype)
        self.kernel.run(self.pointers(given, result))
        if not is_usable:
            out[...] = result
        return out

    def pointers(self, inputs: Mapping[str, Array], out: Array) -> Any:
        """The kernel's argument: addresses of all its buffers. The arrays must outlive every run with it; `out` must be aligned as `aligned_empty`."""
        addresses: list[int] = []
        for argument in self.kernel.code.arguments:
            if argument.scope == "output":
                addresses.append(out.ctypes.data)
            elif argument.name in self._addresses:
                addresses.append(self._addresses[argument.name])
            else:
                addresses.append(inputs[argument.name].ctypes.data)
        addresses.append(self._workspace_address)
        return (ctypes.c_void_p * len(addresses))(*addresses)
