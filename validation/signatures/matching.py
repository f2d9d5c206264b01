"""What a dataset is like in the library: its nearest records of both sides, and the probability that it collapses a model.

Records of known outcome are the two sides of a pattern memory (`atlas_jax.patterns`). Features are standardised by the median
and the interquartile range of the library's own records; one that could not be measured stands at the median. With enough
records they are weighted by how much of their variance the outcome explains. The probability
is calibrated on every record scored without itself; with fewer than `ENOUGH` records of either outcome there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from atlas_jax.patterns.calibration import Calibration, fit, reliability, unfitted
from atlas_jax.patterns.memory import BAD, GOOD, PatternConfig, PatternState, credit, init_state, record_all, touch
from atlas_jax.patterns.nearest import Score, left_out, score
from atlas_jax.patterns.projections import Projections, project
from validation.signatures.library import Library, Use
from validation.signatures.record import Signature

ENOUGH = 20
"""Records of each outcome from which a probability is given: below, a sigmoid of two numbers is mostly its prior."""

LEAST_WEIGHT = 0.05
"""Weight of a feature that tells nothing of the outcome; it still tells a dataset from others of its kind."""

FARTHEST = 5.0  # robust standard deviations: one wild feature must not be all that counts
_record_all = jax.jit(record_all, static_argnums=0)
_score_jitted = jax.jit(score, static_argnums=0)
_left_out = jax.jit(left_out, static_argnums=0)
_touch, _credit, _fit = jax.jit(touch), jax.jit(credit, static_argnums=0), jax.jit(fit)

_SIDES = {"no collapse": GOOD, "collapse": BAD}


@dataclass(frozen=True)
class Match:
    """A record that a dataset is like.

    Attributes:
      record: with its outcome and provenance.
      distance: weighted root mean square of the differences of standardised features.
      similarity: 1 / (1 + distance), from 0 to 1.
    """

    record: Signature
    distance: float
    similarity: float


@dataclass(frozen=True)
class Matched:
    """What the library says of a dataset.

    Attributes:
      matches: nearest first, of all outcomes.
      probability: calibrated, that it collapses a model; None where that cannot be said.
      evidence: from -1, like those that did no harm, to 1; None where a side is empty.
      skill: how much better than the share of collapses alone the probabilities were on records that they were not fitted
        to, 1 at best; None where uncalibrated.
      note: why there is no probability, or what it rests on.
    """

    matches: tuple[Match, ...]
    probability: float | None
    evidence: float | None
    skill: float | None
    note: str


@dataclass(frozen=True)
class _Memory:
    """The library as a pattern memory: its records by label, and how features become vectors."""

    config: PatternConfig
    state: PatternState
    records: tuple[Signature, ...]
    names: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    weights: np.ndarray

    def vector(self, features: Mapping[str, float]) -> Float[np.ndarray, " d"]:
        """Standardised and weighted features, so that the length of a difference is a weighted root mean square."""
        values = np.array([features.get(name, math.nan) for name in self.names], np.float64)
        standard = np.clip((values - self.centre) / self.scale, -FARTHEST, FARTHEST)
        return np.where(np.isfinite(standard), standard, 0.0) * self.weights / np.linalg.norm(self.weights)


def match(library: Library, features: Mapping[str, float], most: int = 5) -> tuple[Matched, Library]:
    """Compares a dataset with the library.

    Args:
      library: to compare with.
      features: as `Profile.features` gives them; nan where not measurable.
      most: matches to tell.

    Returns:
      What it says, and the library in which the records that voted are the last used.
    """
    if not library.records:
        return Matched((), None, None, None, "the library is empty"), library
    memory = _memory(library)
    vector = memory.vector(features)
    ordered = sorted(
        (float(np.linalg.norm(memory.vector(one.features) - vector)), one.id, one) for one in library.records.values()
    )
    nearest = tuple(Match(one, distance, 1 / (1 + distance)) for distance, _, one in ordered[:most])
    counts = [sum(one.outcome.verdict == verdict for one in memory.records) for verdict in _SIDES]
    if not all(counts):
        note = f"uncalibrated: {counts[1]} records that collapsed and {counts[0]} that did not, expected some of both"
        return Matched(nearest, None, None, None, note), library
    probability, skill, note = None, None, f"uncalibrated: expected {ENOUGH} records of each outcome, there are "
    note += f"{counts[1]} that collapsed and {counts[0]} that did not"
    calibration = unfitted()
    if min(counts) >= ENOUGH:
        calibration, skill = _calibrated(memory)
        note = f"calibrated on {sum(counts)} records, each scored without itself; skill {skill:.2f} on others than fitted to"
    found = _score(memory, vector, calibration)
    if skill is not None:
        probability = float(found.probability)
    state = _touch(memory.state, found.matches)
    return Matched(nearest, probability, float(found.evidence), skill, note), _used(library, memory, state)


def learn(library: Library, record: Signature) -> Library:
    """The library with a record of known outcome; those that voted on it gain importance where they were right, and lose it
    where they were wrong. An outcome that was told before is no news: its own record would vote for it."""
    verdict = record.outcome.verdict
    before = library.records.get(record.id)
    new = before is None or before.outcome.verdict not in _SIDES
    if new and verdict in _SIDES and all(any(r.outcome.verdict == v for r in library.records.values()) for v in _SIDES):
        memory = _memory(library)
        found = _score(memory, memory.vector(record.features), unfitted())
        library = _used(library, memory, _credit(memory.config, memory.state, found.matches, _SIDES[verdict]))
    return library.add(record)


def _memory(library: Library) -> _Memory:
    everything = list(library.records.values())
    known = tuple(one for one in everything if one.outcome.verdict in _SIDES)
    names = tuple(sorted({name for one in everything for name in one.features}))
    table = np.array([[one.features.get(name, math.nan) for name in names] for one in everything], np.float64)
    low, centre, high = np.nanquantile(table, (0.25, 0.5, 0.75), axis=0)
    spread = (high - low) / 1.349
    scale = np.where(spread > 0, spread, np.nanstd(table, axis=0))
    config = PatternConfig(width=len(names), capacity=_capacity(known))
    equal = np.ones(len(names))
    memory = _Memory(config, init_state(config), known, names, centre, np.where(scale > 0, scale, 1.0), equal)
    memory = replace(memory, weights=_weights(memory))
    if not known:
        return memory
    uses = [library.uses.get(one.id, Use()) for one in known]
    vectors = [project(Projections(), memory.vector(one.features), len(names))[0] for one in known]
    state, placed = _record_all(
        config,
        memory.state,
        jnp.array([_SIDES[one.outcome.verdict] for one in known], jnp.int32),
        jnp.arange(len(known), dtype=jnp.int32),
        jnp.stack(vectors),
        jnp.array([use.importance for use in uses], jnp.float32),
    )
    sides = np.array([_SIDES[one.outcome.verdict] for one in known])
    last = state.last_used.at[sides, placed.slot].set(jnp.array([use.last for use in uses], jnp.int32))
    return replace(memory, state=state._replace(last_used=last, clock=jnp.int32(library.clock)))


def _weights(memory: _Memory) -> Float[np.ndarray, " d"]:
    """How much of each feature's variance the outcome explains, less what chance would; 1 with too few records to say.

    Without weights the features that differ by chance drown the few that tell.
    """
    bad = np.array([one.outcome.verdict == "collapse" for one in memory.records])
    if min(bad.sum(), (~bad).sum()) < ENOUGH:
        return np.ones(len(memory.names))
    table = np.stack([memory.vector(one.features) for one in memory.records])
    total = table.var(axis=0)
    within = (table[bad].var(axis=0) * bad.sum() + table[~bad].var(axis=0) * (~bad).sum()) / bad.size
    explained = np.where(total > 0, 1 - within / np.where(total > 0, total, 1.0), 0.0)
    return np.maximum(explained - 3 / bad.size, LEAST_WEIGHT)


def _capacity(known: tuple[Signature, ...]) -> int:
    """Slots a side: powers of two, so that a growing library compiles seldom."""
    largest = max((sum(one.outcome.verdict == verdict for one in known) for verdict in _SIDES), default=0)
    return max(8, 1 << max(largest - 1, 0).bit_length())


def _score(memory: _Memory, vector: Float[np.ndarray, " d"], calibration: Calibration) -> Score:
    projected, _ = project(Projections(), vector, memory.config.width)
    return _score_jitted(memory.config, memory.state, calibration, projected)


def _calibrated(memory: _Memory) -> tuple[Calibration, float]:
    """The sigmoid of all records, each scored without itself, and the skill of one fitted to one half of the sources on the
    other half, and the other way round."""
    evidence, counted = _left_out(memory.config, memory.state)
    evidence, counted = np.asarray(evidence), np.asarray(counted)
    bad = np.broadcast_to(np.array([[False], [True]]), evidence.shape)
    labels = np.asarray(memory.state.labels)
    sources = sorted({one.provenance.source for one in memory.records})
    half_of = {source: place % 2 for place, source in enumerate(sources)}
    half = np.array(
        [[half_of[memory.records[label].provenance.source] if label >= 0 else 0 for label in row] for row in labels]
    )
    probabilities = np.zeros(evidence.shape, np.float32)
    for part in (0, 1):
        fitted = _fit(*(jnp.asarray(x.ravel()) for x in (evidence, bad, counted & (half != part))))
        told = jax.nn.sigmoid(fitted.slope * jnp.asarray(evidence) + fitted.intercept)
        probabilities = np.where(half == part, np.asarray(told), probabilities)
    arrays = [jnp.asarray(x.ravel()) for x in (probabilities, bad, counted)]
    skill = float(reliability(*arrays).skill) if len(sources) > 1 else math.nan
    return _fit(*(jnp.asarray(x.ravel()) for x in (evidence, bad, counted))), skill


def _used(library: Library, memory: _Memory, state: PatternState) -> Library:
    """The library with what a state says of its records' use."""
    labels, last, importance = (np.asarray(x) for x in (state.labels, state.last_used, state.importance))
    uses = dict(library.uses)
    for side, slot in zip(*np.nonzero(labels >= 0), strict=True):
        name = memory.records[int(labels[side, slot])].id
        use = Use(int(last[side, slot]), float(importance[side, slot]))
        if use != Use():
            uses[name] = use
    return replace(library, uses=uses, clock=int(state.clock))
