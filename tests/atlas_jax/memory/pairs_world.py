"""Every rule with every network, feature, window, projection, limit and length that it admits, and small sets that cover them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import NamedTuple

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.networks import NETWORKS
from atlas_jax.memory.newton_schulz import TUNED
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.sequence import MemoryConfig

CHUNK, LIMIT = 6, 0.3


class Case(NamedTuple):
    """One memory, by the names of its parts."""

    rule: str
    network: str
    degree: int | None
    window: int
    projection: str | None
    limit: float | None
    lengths: str


AXES = Case(
    ("titans", "dot", "ascent", "muon", "muon tuned", "lact", "delta"),
    tuple(NETWORKS),
    (None, 1, 2, 3),
    (1, 2, 5, CHUNK + 2),
    (None, "norm_sum", "per_key", "per_key by chunk"),
    (None, LIMIT),
    ("endless", "shards", "tiles", "single tokens"),
)
LENGTHS = {  # chunk, shard, tile
    "endless": (CHUNK, None, CHUNK),
    "shards": (CHUNK, 2 * CHUNK, CHUNK),
    "tiles": (CHUNK, 3 * CHUNK, CHUNK // 2),
    "single tokens": (1, None, 1),
}


def admitted(case: Case) -> bool:
    """Gated DeltaNet is linear, without window and limit; LaCT has norms of columns in place of a limit."""
    if case.rule == "delta":
        return (case.network, case.window, case.limit) == ("linear", 1, None)
    return case.rule != "lact" or case.limit is None


ALL = tuple(case for case in map(Case._make, product(*AXES)) if admitted(case))


def config_of(case: Case) -> MemoryConfig:
    """The memory of a case."""
    network, window = NETWORKS[case.network], case.window
    if case.rule == "delta":
        rule = GatedDelta()
    elif case.rule == "lact":
        rule = replace(OneStep.lact(network), window=window)
    elif case.rule.startswith("muon"):
        rule = OneStep.atlas(network, window, *([TUNED] if case.rule == "muon tuned" else []))
        rule = replace(rule, limit=case.limit)
    else:
        rule = Descent(
            network,
            window,
            "l2" if case.rule == "titans" else case.rule,
            case.limit,
            None if case.limit is None else 1.0,
        )
    projection, _, span = (case.projection or "").partition(" by ")
    chunk, shard, tile = LENGTHS[case.lengths]
    return MemoryConfig(rule, chunk, shard, projection or None, span or "shard", tile=tile)


def combined(case: Case, strength: int) -> frozenset[tuple]:
    """All choices of so many axes that the case stands for, each with the values there."""
    return frozenset(combinations(enumerate(case), strength))


def covering(cases: Sequence[Case], strength: int, groups: Iterable[Sequence[Case]] = ()) -> list[Case]:
    """Few of the cases, that stand for all combinations of so many axes which occur among them; always the same ones.

    Greedy: the next one is the case that adds most; first among each of the groups, then among all.
    """
    parts = {case: combined(case, strength) for case in cases}
    missing, chosen = set().union(*parts.values()), []

    def choose(among: Sequence[Case]) -> None:
        chosen.append(max(among, key=lambda case: len(missing & parts[case])))
        missing.difference_update(parts[chosen[-1]])

    for group in groups:
        choose(group)
    while missing:
        choose(cases)
    return chosen


def every_memory() -> list[list[Case]]:
    """The cases of every rule, network, degree and window."""
    groups: dict[tuple, list[Case]] = {}
    for case in ALL:
        groups.setdefault(case[:4], []).append(case)
    return list(groups.values())


PAIRS = covering(ALL, 2)
TRIPLES = covering(ALL, 3, every_memory())
