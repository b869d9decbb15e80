"""A candidate with all its buffers, ready to be checked and timed. This runs in a worker: nothing here trusts the code."""

from __future__ import annotations

from codegen.check import Guards, check_output, random_inputs, reference
from codegen.kernel import Code, Kernel


class Bench:
    """`code` loaded, its constants packed, on the random inputs of `seed`."""

    def __init__(self, code: Code, seed: int) -> None:
        self._guards = Guards()
        self._seed = seed
        self._kernel = Kernel(code, self._guards.empty)
        program = self._kernel.task.program
        inputs = random_inputs(code.task, seed)
        self._bound = self._kernel.bind(**{tensor.name: inputs[tensor.name] for tensor in program.inputs if tensor.constant})
        self._output = self._guards.empty(program.output.shape, program.output.dtype)
        self._pointers = self._bound.pointers(inputs, self._output)

    def run(self, times: int) -> None:
        self._kernel.run(self._pointers, times)

    def check(self) -> None:
        """`WrongAnswer` if what the runs so far have left is not right. To be called once before timing and once after: threads that
        get in each other's way, or results that depend on what an earlier run left behind, may show only then."""
        self._guards.check()
        check_output(self._output, reference(self._kernel.code.task, self._seed, self._kernel.code.algorithm))
