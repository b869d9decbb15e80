"""From LLVM IR to machine code and back into a callable: object code is bytes, so that building and running can be two processes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

from ir.errors import InternalError
from schedule.target import Target

HOST_TRIPLE: str = llvm.get_default_triple()  # LLVM's words for architecture, maker and system of this machine


@cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@cache
def target_machine(target: Target, triple: str = HOST_TRIPLE) -> llvm.TargetMachine:
    """LLVM's target machine for the target's CPU and features, at its highest level of optimization."""
    return new_target_machine(target, triple)


def new_target_machine(target: Target, triple: str = HOST_TRIPLE) -> llvm.TargetMachine:
    _initialize()
    create = llvm.Target.from_triple(triple).create_target_machine
    return create(cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="jitdefault", jit=True)


def optimize(text: str, machine: llvm.TargetMachine) -> llvm.ModuleRef:
    """The module of an IR text after LLVM's passes. Loops are already tiled, unrolled and vectorized, so those passes are off."""
    try:
        module = llvm.parse_assembly(text, llvm.create_context())  # what a context holds of a module is only freed with it
        module.verify()
    except RuntimeError as error:
        raise InternalError(f"LLVM refuses the emitted code: {error}\n{text}") from None
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = options.loop_interleaving = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


def compile_object(text: str, target: Target, triple: str = HOST_TRIPLE) -> bytes:
    """Object code of an IR text."""
    machine = target_machine(target, triple)
    return bytes(machine.emit_object(optimize(text, machine)))


def assembly(text: str, target: Target, triple: str = HOST_TRIPLE) -> str:
    machine = target_machine(target, triple)
    return str(machine.emit_assembly(optimize(text, machine)))


@dataclass(frozen=True)
class LoadedCode:
    """Object code in memory; `engine` keeps it alive."""

    engine: llvm.ExecutionEngine

    def function(self, name: str, *argument_types: type) -> Callable[..., None]:
        """The C function of this name, without result."""
        address = self.engine.get_function_address(name)
        if not address:
            raise InternalError(f"the object code has no function {name}")
        return ctypes.CFUNCTYPE(None, *argument_types)(address)


def load_object(code: bytes, target: Target) -> LoadedCode:
    """Object code made by `compile_object`, linked into this process. OpenMP symbols must be registered before."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly("", llvm.create_context()), new_target_machine(target))  # which the engine owns
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return LoadedCode(engine)
