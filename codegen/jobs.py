"""The jobs of a worker. Each is made in the tuner's process, sent as a message, and run in the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Self

from codegen.bench import Bench
from codegen.check import reference
from codegen.guards import WrongAnswer
from codegen.kernel import Code, build_candidate
from codegen.protocol import Answer, Job, Message
from codegen.quiet import patience
from codegen.timing import Timing, time_calls, time_in_turns
from ir.errors import IllegalCandidate, InternalError
from ir.task import task
from schedule.measurement import Candidate
from schedule.target import Target


@dataclass(frozen=True)
class Build:
    """Lower, emit and compile a candidate; `code_of` takes the code out of the answer."""

    task: str
    sketch: str
    row: tuple[int, ...]
    target: Target
    name: ClassVar[str] = "build"

    def to_message(self) -> Message:
        row = [int(number) for number in self.row]
        return Message({"job": self.name, "task": self.task, "sketch": self.sketch, "row": row, "target": self.target.to_json()})

    @classmethod
    def from_message(cls, message: Message) -> Self:
        header = message.header
        return cls(header["task"], header["sketch"], tuple(header["row"]), Target.from_json(header["target"]))

    def run(self) -> Answer:
        code = build_candidate(task(self.task), Candidate(self.sketch, self.row), self.target)
        return Answer(code.header(), code.object_code)


def code_of(answer: Answer) -> Code:
    return Code.from_header(answer.result, answer.blob)


@dataclass(frozen=True)
class Refer:
    """Compute the reference of a task for an algorithm, unless the worker has it: a job of its own, so that this time is not taken for a candidate's."""

    task: str
    seed: int
    algorithm: str
    name: ClassVar[str] = "refer"

    def to_message(self) -> Message:
        return Message({"job": self.name, "task": self.task, "seed": self.seed, "algorithm": self.algorithm})

    @classmethod
    def from_message(cls, message: Message) -> Self:
        return cls(message.header["task"], message.header["seed"], message.header["algorithm"])

    def run(self) -> Answer:
        reference(self.task, self.seed, self.algorithm)
        return Answer({})


@dataclass(frozen=True)
class Measure:
    """Check (if wanted) and time a candidate: `{"seconds": [of every repeat], "waited": seconds for a quiet machine, "disturbed": 1 if it was not quiet}`."""

    code: Code
    timing: Timing
    check: bool
    seed: int
    name: ClassVar[str] = "measure"

    def to_message(self) -> Message:
        header = {"job": self.name, "code": self.code.header(), "timing": asdict(self.timing), "check": self.check, "seed": self.seed}
        return Message(header, (self.code.object_code,))

    @classmethod
    def from_message(cls, message: Message) -> Self:
        header = message.header
        return cls(Code.from_header(header["code"], message.blobs[0]), Timing(**header["timing"]), header["check"], header["seed"])

    def run(self) -> Answer:
        bench = Bench(self.code, self.seed)
        if self.check:
            bench.check()
        else:
            bench.run(1)
        found = self._time(bench)
        if self.check:
            bench.check()
        return Answer(found)

    def _time(self, bench: Bench) -> dict[str, object]:
        if not self.timing.patience:
            return {"seconds": list(time_calls(bench.run, self.timing)), "waited": 0.0, "disturbed": 0}
        patient = patience(self.code.target)
        waited, disturbed = patient.waited_seconds, patient.n_disturbed
        seconds = patient.measure(lambda: time_calls(bench.run, self.timing), self.timing.patience)
        return {"seconds": list(seconds), "waited": patient.waited_seconds - waited, "disturbed": patient.n_disturbed - disturbed}


@dataclass(frozen=True)
class Compare:
    """Time candidates in turns: `{"seconds": [[of every round] of every candidate]}`."""

    codes: tuple[Code, ...]
    timing: Timing
    rounds: int
    max_seconds: float
    seed: int
    name: ClassVar[str] = "compare"

    def to_message(self) -> Message:
        header = {"job": self.name, "codes": [code.header() for code in self.codes], "timing": asdict(self.timing)}
        return Message(header | {"rounds": self.rounds, "max_seconds": self.max_seconds, "seed": self.seed}, tuple(code.object_code for code in self.codes))

    @classmethod
    def from_message(cls, message: Message) -> Self:
        header = message.header
        codes = tuple(Code.from_header(each, blob) for each, blob in zip(header["codes"], message.blobs, strict=True))
        return cls(codes, Timing(**header["timing"]), header["rounds"], header["max_seconds"], header["seed"])

    def run(self) -> Answer:
        benches = [Bench(code, self.seed) for code in self.codes]
        for bench in benches:
            bench.run(1)
        seconds = time_in_turns([bench.run for bench in benches], self.timing, self.rounds, self.max_seconds)
        return Answer({"seconds": [list(each) for each in seconds]})


# What a worker is given: its jobs, and the class of failure that an exception of theirs is.
JOBS: Mapping[str, type[Job]] = {job.name: job for job in (Build, Refer, Measure, Compare)}
FAILURES: Mapping[type[Exception], str] = {IllegalCandidate: "illegal", InternalError: "build", WrongAnswer: "wrong", MemoryError: "memory"}
