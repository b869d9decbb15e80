"""What is held out of the training of a cost model, to judge it on.

  task     a fifth of the programs. A program is one task, whatever its names, machines and numbers of threads.
  network  two networks: all programs that they use, and all programs of the operator families that no other network has, wherever those come from.
  within   a fifth of the candidates of every task.

Which fifth follows from a hash of the program, or of the candidate, and from the seed: measurements that are added later change it little (task) or not
at all (within).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graph.suite import FAMILY
from ir.errors import UserError
from tilewright.examples import UNKNOWN, Examples

SPLITS = ("task", "network", "within")
SHARE = 0.2
NETWORKS = ("minilm", "ppocr-det")  # held out where nothing else is said: the only ones with transformer layers, and with transposed convolutions

Mask = NDArray[np.bool_]


def held_out(data: Examples, split: str, seed: int, networks: Sequence[str] = NETWORKS) -> Mask:
    """(n,) whether each candidate is held out; `UserError` where nothing is held out, or nothing is left to learn from."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")
    if split == "within":
        mask = (data.place + _fraction(str(seed))) % 1 < SHARE
    else:
        programs = sorted(set(data.programs.tolist()))
        if len(programs) < 2:
            raise UserError(f"--holdout {split} needs two tasks or more, the measurements are of {len(programs)}; `within` holds out candidates of one")
        chosen = _programs_of_networks(data, networks) if split == "network" else _fifth(programs, seed)
        mask = np.isin(data.programs, sorted(chosen))
    if mask.all() or not mask.any():
        n = int(mask.sum())
        raise UserError(f"an empty split: --holdout {split} holds out {n} of {len(mask)} candidates and leaves {len(mask) - n} to learn from")
    return mask


def _fifth(programs: Sequence[str], seed: int) -> set[str]:
    n = max(round(SHARE * len(programs)), 1)
    return set(sorted(programs, key=lambda program: _fraction(f"{seed} {program}"))[:n])


def _programs_of_networks(data: Examples, networks: Sequence[str]) -> set[str]:
    """Those that are never to be seen in any form."""
    known = {name for group in data.of_group for name in group.uses if name != UNKNOWN and not name.startswith(FAMILY)}
    for name in networks:
        if name not in known:
            raise UserError(f"--networks {','.join(networks)}: no measurement is of network {name!r} (there are: {', '.join(sorted(known)) or 'none'})")
    inside = [group for group in data.of_group if group.uses.keys() & set(networks)]
    others = [group for group in data.of_group if group.uses.keys() & (known - set(networks))]
    own_families = {name for group in inside for name in group.families} - {name for group in others for name in group.families}
    return {group.program for group in data.of_group if group in inside or group.families & own_families}


def _fraction(text: str) -> float:
    """From 0 to 1, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48
