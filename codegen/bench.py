"""A candidate with all its buffers, ready to be checked and timed. This runs in a worker: nothing here trusts the code."""

from __future__ import annotations

import numpy as np

from codegen.check import check_output, reference
from codegen.guards import Guards, WrongAnswer, spoil
from codegen.inputs import input_guards, kept_inputs, random_inputs
from codegen.kernel import Code, Kernel


class Bench:
    """`code` loaded, its constants packed, on the random inputs of `seed`."""

    def __init__(self, code: Code, seed: int) -> None:
        self._guards = Guards()
        self._seed = seed
        self._kernel = Kernel(code, self._guards.empty)
        program = self._kernel.task.program
        inputs = random_inputs(code.task, seed)
        self._kept = kept_inputs(code.task, seed)  # before any kernel of the task has run
        self._inputs = {name: inputs[name] for name in self._kept}
        self._bound = self._kernel.bind(**{tensor.name: inputs[tensor.name] for tensor in program.inputs if tensor.constant})
        self._output = self._guards.empty(program.output.shape, program.output.dtype)
        self._pointers = self._bound.pointers(inputs, self._output)

    def run(self, times: int) -> None:
        self._kernel.run(self._pointers, times)

    def check(self) -> None:
        """Runs once, and raises `WrongAnswer` if what that leaves is not right. To be called once before timing and once after: threads that
        get in each other's way, or results that depend on what an earlier run left behind, may show only then."""
        spoil(self._output)
        self.run(1)
        self._guards.check()
        input_guards(self._kernel.code.task, self._seed).check()
        for name, kept in self._kept.items():
            if not np.array_equal(self._inputs[name], kept):
                raise WrongAnswer(f"wrote into its input {name}")
        check_output(self._output, reference(self._kernel.code.task, self._seed, self._kernel.code.algorithm))
