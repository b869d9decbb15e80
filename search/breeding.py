"""How rows have children: parents drawn by rank, then mutated or crossed within their sketch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from schedule.sketch import Sketch
from schedule.space import Population, Space
from search.strategy import Rows, Scores


def breed(sketches: Sequence[Sketch], rows: Rows, scores: Mapping[int, Scores], n: int, rng: np.random.Generator, crossover: float = 0.0) -> Rows:
    """Up to n valid children, none where there are no rows; better parents are drawn more often. `crossover`: share of children of
    two parents; the others are mutants."""
    if not any(len(X) for X in rows.values()):
        return {}
    owner = np.concatenate([np.full(len(X), i) for i, X in rows.items()])
    place = np.concatenate([np.arange(len(X)) for X in rows.values()])
    flat = np.concatenate([scores[i] for i in rows])
    rank = np.empty(len(flat))
    rank[np.argsort(-flat, kind="stable")] = np.arange(len(flat))
    weight = (1.0 - rank / len(flat)) ** 4
    parents = rng.choice(len(flat), size=n, p=weight / weight.sum())
    bred: Rows = {}
    for i, X in rows.items():
        own = X[place[parents[owner[parents] == i]]]
        if len(own):
            bred[i] = _children(sketches[i].space, own, rng, crossover)
    return bred


def _children(space: Space, parents: Population, rng: np.random.Generator, crossover: float) -> Population:
    mates = parents[rng.permutation(len(parents))]
    mutated = rng.random(len(parents)) >= crossover
    children = np.empty_like(parents)
    children[mutated] = space.mutate(parents[mutated], rng)
    children[~mutated] = space.crossover(parents[~mutated], mates[~mutated], rng)
    return valid_children(space, children, parents, rng)


def valid_children(space: Space, children: Population, parents: Population, rng: np.random.Generator) -> Population:
    """Children that break a limit are mutated anew from their parents a few times, then dropped."""
    valid = space.valid(children)
    for _ in range(2):
        if valid.all():
            break
        children = np.where(valid[:, None], children, space.mutate(parents, rng))
        valid = space.valid(children)
    return children[valid]
