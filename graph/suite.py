"""The tasks of a measurement campaign, each with the networks and operator families that it comes from.

A program stands in a suite once, under the first of its names: a 1×1 convolution and the matrix product that it is are one task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graph.examples import EXAMPLES, LIGHT_NETWORKS, fetch, light_network
from graph.network import Network
from graph.onnx_file import input_names
from graph.operator_suite import BATCHES, FAMILIES
from graph.shapes import Shape, parse_shapes
from graph.targets import is_file, resolve_target
from ir.errors import UserError
from ir.identity import program_id
from ir.task import Task

# What is larger is left out. A trial must be short: most candidates drawn by chance are ten to a hundred times slower than the best, and each is timed
# several times. With 1.5·10¹⁰ flops the best takes 30 to 100 ms and a bad one seconds; with 256 MiB of tensors it is the memory that takes as long.
MAX_FLOPS = 15 * 10**9
MAX_BYTES = 1 << 28

Source = tuple[str, Network]  # its name, and its tasks with their counts


@dataclass(frozen=True)
class Suite:
    """`sources`: for each task's key how often each network or family uses it. `notes` say in a line each what was assumed, and what was left out and why."""

    tasks: tuple[Task, ...]
    sources: dict[str, dict[str, int]]
    notes: tuple[str, ...]


def named_suite(name: str) -> Suite:
    """ "networks" (the examples and onnx's light networks), "operators" (`graph.operator_suite`), or "standard": both. Fetches networks that are not there
    yet; `UserError` where that fails."""
    if name not in SUITES:
        raise UserError(f"unknown suite {name!r} (known: {', '.join(SUITES)})")
    return collect(source for part in SUITES[name] for source in part())


def target_suite(targets: Sequence[str], shapes: Mapping[str, Shape]) -> Suite:
    """The tasks of ONNX files and operator texts. A network's source is its file's name, an operator text's its operator.

    What is given twice counts once. Each network gets the `shapes` that it has inputs for; `UserError` where none has.
    """
    if not targets:
        raise UserError(f"record needs targets, or --suite with one of {', '.join(SUITES)}")
    targets = list({Path(target).resolve() if is_file(target) else target: target for target in targets}.values())
    given = [_shapes_for(target, shapes) for target in targets]
    for name in shapes:
        if not any(name in mine for mine in given):
            raise UserError(f"--shape {name}: none of the targets has an input of this name")
    for name, count in Counter(Path(target).stem for target in targets if is_file(target)).items():
        if count > 1:
            raise UserError(f"{count} of the targets are files of the name {name}, after which what is measured of a network is called; rename all but one")
    return collect(_named(resolve_target(target, mine)) for target, mine in zip(targets, given, strict=True))


def collect(sources: Iterable[Source]) -> Suite:
    """`UserError` where nothing is left."""
    tasks: dict[str, Task] = {}
    uses: dict[str, dict[str, int]] = {}
    notes: list[str] = []
    for name, network in sources:
        notes += [f"{name}: {note}" for note in network.notes]
        notes += [f"{name}: {refusal.op_type} {refusal.node} is left out: {refusal.reason}" for refusal in network.unsupported]
        for of in network.tasks:
            if too_large := _too_large(of):
                notes.append(f"{name}: {of.key} is left out: {too_large}")
                continue
            kept = tasks.setdefault(program_id(of.program), of)
            counts = uses.setdefault(kept.key, {})
            counts[name] = counts.get(name, 0) + of.count
    if not tasks:
        raise UserError(f"there is no task to measure: {'; '.join(notes) or 'no target has any'}")
    return Suite(tuple(tasks.values()), uses, tuple(notes))


def _too_large(of: Task) -> str:
    """In words; nothing where it is not."""
    if of.flops > MAX_FLOPS:
        return f"{of.flops:.2g} flops, more than {MAX_FLOPS:.2g}"
    n_bytes = of.program.n_bytes
    return f"{n_bytes >> 20} MiB of tensors, more than {MAX_BYTES >> 20}" if n_bytes > MAX_BYTES else ""


def _networks() -> Iterator[Source]:
    for name, example in EXAMPLES.items():
        yield _named(resolve_target(str(fetch(name)), parse_shapes(list(example.shapes))))
    for name in LIGHT_NETWORKS:
        yield _named(resolve_target(str(light_network(name)), {}))


def _operators() -> Iterator[Source]:
    for name, family in FAMILIES.items():
        for batch in BATCHES:
            yield f"{FAMILY}{name}", Network(None, tuple(family.tasks(batch)), ())


def _named(network: Network) -> Source:
    """A network is named after its file, an operator text after its operator. One name for one file, whether the suite has it or a user gives it."""
    name = network.path.stem if network.path else f"{FAMILY}{network.tasks[0].key.partition(':')[0]}"
    return name, network


def _shapes_for(target: str, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Those of inputs that the target has; none for an operator text."""
    names = input_names(Path(target)) if is_file(target) else ()
    return {name: shape for name, shape in shapes.items() if name in names}


FAMILY = "operator "  # begins the names of sources that are no networks
SUITES = {"standard": (_networks, _operators), "networks": (_networks,), "operators": (_operators,)}
