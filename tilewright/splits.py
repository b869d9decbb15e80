"""What is held out of the training of a cost model, to judge it on.

  task     about a fifth of the programs. A program is one task, whatever its names, machines and numbers of threads.
  network  two networks: all programs that they use, and all programs of the kinds of operators that no other network has, wherever those come from.
  within   about a fifth of the candidates of every task.

Whether something is held out follows from a hash of the program's first name, or of the candidate's row, and from the seed, whatever else is there:
measurements that are added later do not move what is there to the other side, but where they bring the same program under a name that comes before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graph.suite import FAMILY
from ir.errors import UserError
from tilewright.training_set import UNKNOWN, TrainingSet, fraction

SPLITS = ("task", "network", "within")
SHARE = 0.2
NETWORKS = ("minilm", "ppocr-det")  # held out where nothing else is said: a transformer, and the only one with transposed convolutions

Mask = NDArray[np.bool_]


def held_out(data: TrainingSet, split: str, seed: int, networks: Sequence[str] = NETWORKS) -> Mask:
    """(n,) whether each candidate is held out; `UserError` where nothing is held out, or nothing is left to learn from."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
    if split == "within":
        mask = np.array([fraction(f"{seed} {place}") for place in data.place.tolist()]) < SHARE
    else:
        programs = sorted(set(data.programs.tolist()))
        if len(programs) < 2:
            raise UserError(f"the split {split} needs two tasks or more, the measurements are of {len(programs)}; `within` holds out candidates of one")
        chosen = _programs_of_networks(data, networks) if split == "network" else _fifth(data, seed)
        mask = np.isin(data.programs, sorted(chosen))
    if mask.all() or not mask.any():
        n = int(mask.sum())
        raise UserError(f"an empty split: {split} holds out {n} of {len(mask)} candidates and leaves {len(mask) - n} to learn from")
    return mask


def _fifth(data: TrainingSet, seed: int) -> set[str]:
    """The programs whose hash is small; where that is none, the one with the smallest. By name, because the id of a program may change with the version."""
    names: dict[str, list[str]] = {}
    for group in data.of_group:
        names.setdefault(group.program, []).extend(group.tasks)
    hashes = {program: fraction(f"{seed} {min(mine)}") for program, mine in names.items()}
    return {program for program, place in hashes.items() if place < SHARE} or {min(hashes, key=hashes.__getitem__)}


def _programs_of_networks(data: TrainingSet, networks: Sequence[str]) -> set[str]:
    """Those that are never to be seen in any form. `UserError` where a task may be of one of these networks and nothing says so."""
    known = {name for group in data.of_group for name in group.uses if name != UNKNOWN and not name.startswith(FAMILY)}
    for name in networks:
        if name not in known:
            raise UserError(f"--networks {','.join(networks)}: no measurement is of network {name!r} (there are: {', '.join(sorted(known)) or 'none'})")
    unknown = [group.tasks[0] for group in data.of_group if UNKNOWN in group.uses]
    if unknown:
        found = f"{unknown[0]}{f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''}"
        raise UserError(f"the split network needs to know which networks use each task, and nothing is known of {found}; give what tilewright record wrote")
    inside = [group for group in data.of_group if group.uses.keys() & set(networks)]
    others = [group for group in data.of_group if group.uses.keys() & (known - set(networks))]
    own = {name for group in inside for name in group.operators} - {name for group in others for name in group.operators}
    return {group.program for group in data.of_group if group in inside or group.operators & own}
