"""Other libraries on the same task: which there are, and each in every setting that may be its best.

A peer computes the same from the same numbers on the same number of threads. The layout of our activations is not its concern: it gets them
in the one it likes best, and leaves its result in it; converting is no part of a call. (The order of dimensions of attention and einsum is part of the task:
where an operator wants another, the call converts, and so does ours.) What is constant in the task is handed over beforehand, so
that it can be packed. Peers are the extra `[peers]`: each is imported when it is asked for, in the process that times it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from codegen.check import Reference, check_output
from codegen.guards import WrongAnswer
from codegen.protocol import first_line
from ir.errors import Unsupported, UserError
from tilewright.problem import Problem, Way
from tilewright.turns import Contender, TurnOptions, take_turns

INSTALL = "pip install '.[peers]' in Tilewright's directory"


@dataclass(frozen=True)
class Peer:
    """A library that tasks are compared with. `<name>_ways` in the module `home` gives what it can do."""

    name: str
    home: str

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.name) is not None

    def ways(self, problem: Problem) -> list[Way]:
        """Every setting that may be the best one. `Unsupported` if the library cannot compute the task."""
        found: list[Way] = getattr(importlib.import_module(self.home), f"{self.name}_ways")(problem)
        return found


PEERS = {peer.name: peer for peer in (Peer(name, f"tilewright.peer_{name}") for name in ("numpy", "torch", "onnxruntime"))}


def choose_peers(names: Iterable[str] | None) -> tuple[list[Peer], list[str]]:
    """The peers of these names, or all that are installed; and a note on each that is not.

    `UserError` for an unknown name, or one that was asked for and is not installed.
    """
    if names is None:
        notes = [f"{peer.name} is not installed: {INSTALL}" for peer in PEERS.values() if not peer.installed]
        return [peer for peer in PEERS.values() if peer.installed], notes
    chosen = list(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in PEERS]
    if unknown:
        raise UserError(f"unknown peer {unknown[0]!r} (known: {', '.join(PEERS)})")
    missing = [name for name in chosen if not PEERS[name].installed]
    if missing:
        raise UserError(f"the peer {missing[0]} is not installed; get it with {INSTALL}")
    return [PEERS[name] for name in chosen], []


def right_contenders(peer: Peer, problem: Problem, expected: Reference) -> tuple[list[Contender], list[str]]:
    """The peer in each setting whose answer is right; and a note on each that is not, or on why there are none. Whatever a library raises is such a note."""
    try:
        ways = peer.ways(problem)
    except Unsupported as error:
        return [], [str(error)]
    except Exception as error:  # a library may raise anything
        return [], [f"{peer.name} failed: {_in_a_line(error)}"]
    right, notes = [], []
    for way in ways:
        try:
            answer = way.answer()
        except Exception as error:  # as above; what the check raises is ours
            notes.append(f"{way.contender.name} ({way.contender.setting}) is left out: {_in_a_line(error)}")
            continue
        try:
            check_output(answer, expected)
            right.append(way.contender)
        except WrongAnswer as error:
            notes.append(f"{way.contender.name} ({way.contender.setting}) is left out: {error}")
    return right, notes


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(str(error))}"


def fastest(contenders: Sequence[Contender], options: TurnOptions) -> Contender:
    """The one with the fastest call."""
    if len(contenders) == 1:
        return contenders[0]
    series = take_turns(contenders, options)
    return min(zip(contenders, series, strict=True), key=lambda pair: pair[1].min_seconds)[0]
