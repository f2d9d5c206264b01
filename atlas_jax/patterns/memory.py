"""What the memory of patterns holds, and how it changes: record, touch, credit, evict, forget.

Two sides of `capacity` slots: good (safe requests, healthy data sets) and bad (unsafe, collapsed). A full side gives up the
pattern of the highest

    (clock - last_used) / (importance + 1),

the first of them where several are equal. A read (`touch`) sets last_used to the clock, an outcome (`credit`) moves importance by
one, up where the pattern voted for what turned out to be true and down where against, within [0, importance_limit]. Recording
and touching advance the clock by one. Neither is enough alone: of streams with a fifth recorded on the wrong side 65 % were
scored rightly with both, 62 % with outcomes alone, 59 % with reads alone, 57 % with neither (± 1.5;
tests/atlas_jax/patterns/test_pattern_retention.py).

Every function is pure and jits with the configuration static; under jit the state is worth donating, since otherwise each
call copies all vectors. The size of a state never changes. What leaves the memory is told by its label, so that a caller can
keep provenance beside it in bounded space too.

Source: the priority is this project's; that an instance earns its place by a record of right and wrong votes is IB3 (Aha, Kibler
and Albert 1991, Instance-based learning algorithms, section 5), with a bounded count in place of its confidence intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

GOOD, BAD = 0, 1
EMPTY = -1
FIRST_IMPORTANCE = 1.0  # above the least, so that a wrong vote costs even a pattern that is new
LONGEST = 1e18  # squares of differences stay finite in float32
CLOCK_LIMIT = 2**30


@dataclass(frozen=True)
class PatternConfig:
    """Sizes of a memory, static under jit."""

    width: int = 256
    """Numbers in a vector."""
    capacity: int = 1000
    """Patterns a side."""
    neighbours: int = 5
    """Nearest patterns that a side is judged by, and that vote together."""
    importance_limit: float = 16.0
    """The most that outcomes can earn: such a pattern outlives a new one that nobody reads (limit + 1) / 2 times."""

    def __post_init__(self) -> None:
        for name in ("width", "capacity", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"PatternConfig: {name}={getattr(self, name)}, expected 1 or more")
        if self.neighbours > self.capacity:
            raise ValueError(f"PatternConfig: neighbours={self.neighbours}, expected at most capacity={self.capacity}")
        if not FIRST_IMPORTANCE <= self.importance_limit < LONGEST:
            raise ValueError(
                f"PatternConfig: importance_limit={self.importance_limit}, expected {FIRST_IMPORTANCE} or more, and finite"
            )


class PatternState(NamedTuple):
    """Good and bad patterns. A slot whose label is -1 is empty: its other fields are 0."""

    vectors: Float[Array, "2 n d"]  # float32
    labels: Int[Array, "2 n"]  # int32: the caller's number of the record, once a side
    last_used: Int[Array, "2 n"]  # int32: clock when recorded or last read
    importance: Float[Array, "2 n"]  # float32, from 0 to the limit
    clock: Int[Array, ""]  # int32: records and touches so far, less what `tick` took off


class Recorded(NamedTuple):
    """What became of a record."""

    slot: Int[Array, ""]  # where it is; -1: refused, the state is as it was
    replaced: Int[Array, ""]  # label of the pattern that had to leave; -1: none


class Matches(NamedTuple):
    """The nearest patterns of each side, nearest first; of equal ones the lower slot."""

    slots: Int[Array, "2 k"]
    labels: Int[Array, "2 k"]  # -1: the side has no more
    distances: Float[Array, "2 k"]  # Euclidean; infinite where the side has no more
    voted: Bool[Array, "2 k"]  # among the k nearest of both sides together


def init_state(config: PatternConfig) -> PatternState:
    """An empty memory: 8 * capacity * (width + 3) + 4 bytes, as ever after."""
    slots = (2, config.capacity)
    return PatternState(
        vectors=jnp.zeros((*slots, config.width), jnp.float32),
        labels=jnp.full(slots, EMPTY, jnp.int32),
        last_used=jnp.zeros(slots, jnp.int32),
        importance=jnp.zeros(slots, jnp.float32),
        clock=jnp.int32(0),
    )


def record(
    config: PatternConfig,
    state: PatternState,
    side: int | Int[Array, ""],
    label: int | Int[Array, ""],
    vector: Float[Array, " d"],
    importance: float | Float[Array, ""] = FIRST_IMPORTANCE,
) -> tuple[PatternState, Recorded]:
    """Stores a pattern: in the slot that has its label already, else in an empty one, else in that of the pattern evicted.

    Storing a label again replaces its pattern, so that a log of records can be played twice.

    Args:
      config: static.
      state: of that configuration.
      side: GOOD or BAD.
      label: the caller's number of the record, from 0.
      vector: as `projections.project` gives it.
      importance: to begin with, from 0 to the limit.

    Returns:
      The state, and what became of the record. It is refused, which under jit no error can say, where the vector holds NaN or
      is longer than 1e18, or where side, label or importance is none of the above.

    Raises:
      ValueError: the shape of the vector or the state is not the configuration's.
    """
    check_fits(config, state, vector)
    number, weight = jnp.int32(label), jnp.float32(importance)
    accepted = (jnp.linalg.norm(vector) < LONGEST) & (number > EMPTY) & (weight >= 0)  # false for NaN
    accepted &= (weight <= config.importance_limit) & ((side == GOOD) | (side == BAD))
    held = state.labels[side] == number
    slot = jnp.where(jnp.any(held), jnp.argmax(held), jnp.argmax(priorities(state)[side])).astype(jnp.int32)
    replaced = jnp.where(jnp.any(held), EMPTY, state.labels[side, slot])
    after = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), tick(state)[1:], state[1:])
    after = PatternState(state.vectors, *after)
    place = (side, jnp.where(accepted, slot, config.capacity))  # past the end nothing is written: no vector is copied

    def put(array: Array, value: Array) -> Array:
        return array.at[place].set(value, mode="drop")

    return PatternState(
        vectors=put(after.vectors, vector),
        labels=put(after.labels, number),
        last_used=put(after.last_used, after.clock),
        importance=put(after.importance, weight),
        clock=after.clock,
    ), Recorded(*(jnp.where(accepted, told, EMPTY) for told in (slot, replaced)))


def record_all(
    config: PatternConfig,
    state: PatternState,
    sides: Int[Array, " m"],
    labels: Int[Array, " m"],
    vectors: Float[Array, "m d"],
    importance: Float[Array, " m"],
) -> tuple[PatternState, Recorded]:
    """Records one after the other in one program: what m calls of `record` give, with the arrays of `Recorded` of length m."""
    check_fits(config, state, vectors)

    def one(state: PatternState, row: tuple[Array, ...]) -> tuple[PatternState, Recorded]:
        return record(config, state, *row)

    return jax.lax.scan(one, state, (sides, labels, vectors, importance))


def touch(state: PatternState, matches: Matches) -> PatternState:
    """A read: the patterns that voted are the last used. One that has left since the matches were found stays gone."""
    state = tick(state)
    sides, slots, counted = _voters(state, matches)
    last_used = state.last_used.at[sides, slots].set(jnp.where(counted, state.clock, state.last_used[sides, slots]))
    return state._replace(last_used=last_used)


def credit(config: PatternConfig, state: PatternState, matches: Matches, truth: int | Int[Array, ""]) -> PatternState:
    """An outcome: the side that a scored vector turned out to belong to, possibly long after it was scored.

    Of the patterns that voted, those of the true side gain 1 of importance and those of the other lose 1.

    Args:
      config: static.
      state: maybe a later one than the matches were found in; a pattern that has left meanwhile is passed over.
      matches: of the vector.
      truth: GOOD or BAD; any other outcome, say "unknown", moves nothing.

    Returns:
      The state at the same clock.
    """
    sides, slots, counted = _voters(state, matches)
    counted &= (truth == GOOD) | (truth == BAD)
    moved = jnp.where(counted, jnp.where(sides == truth, 1.0, -1.0), 0.0).astype(jnp.float32)
    importance = jnp.clip(state.importance[sides, slots] + moved, 0.0, config.importance_limit)
    return state._replace(importance=state.importance.at[sides, slots].set(importance))


def evict(state: PatternState, side: int | Int[Array, ""]) -> tuple[PatternState, Int[Array, ""]]:
    """Empties the slot that the next record would take from a full side; returns the label that left, -1 from an empty side."""
    held = (state.labels > EMPTY) & _of(side)
    first = jnp.argmax(jnp.where(held, priorities(state), -jnp.inf))
    leaving = held & (jnp.arange(held.size).reshape(held.shape) == first)
    return _emptied(state, leaving), jnp.max(jnp.where(leaving, state.labels, EMPTY))


def forget(state: PatternState, side: int | Int[Array, ""], label: int | Int[Array, ""]) -> PatternState:
    """Empties the slot of a label, if the side holds it: a record that proved forged, or goes to the other side."""
    return _emptied(state, _of(side) & (state.labels == label))


def priorities(state: PatternState) -> Float[Array, "2 n"]:
    """Who leaves first: (clock - last_used) / (importance + 1), infinite for an empty slot."""
    age = (state.clock - state.last_used).astype(jnp.float32)
    return jnp.where(state.labels > EMPTY, age / (state.importance + 1), jnp.inf)


def tick(state: PatternState) -> PatternState:
    """Advances the clock by 1, and at 2**30 takes off half of that: 32 bits then last for ever.

    Only ages over 2**29 suffer: they become that.
    """
    taken = jnp.where(state.clock >= CLOCK_LIMIT, CLOCK_LIMIT // 2, 0).astype(jnp.int32)
    last_used = jnp.where(state.labels > EMPTY, jnp.maximum(state.last_used - taken, 0), state.last_used)
    return state._replace(clock=state.clock - taken + 1, last_used=last_used)


def check_fits(config: PatternConfig, state: PatternState, vectors: Float[Array, "*m d"]) -> None:
    """Raises ValueError where vectors or state are not of the configuration's shape."""
    if vectors.shape[-1] != config.width:
        raise ValueError(f"vector has shape {vectors.shape}, expected the last axis to be width={config.width}")
    expected = (2, config.capacity, config.width)
    if state.vectors.shape != expected:
        raise ValueError(f"state.vectors has shape {state.vectors.shape}, expected {expected}: of the configuration")


def _voters(state: PatternState, matches: Matches) -> tuple[Int[Array, "2 k"], Int[Array, "2 k"], Bool[Array, "2 k"]]:
    """Side and slot of every match, and whether it voted and is still there."""
    sides = jnp.broadcast_to(jnp.arange(2, dtype=jnp.int32)[:, None], matches.slots.shape)
    there = (matches.labels > EMPTY) & (state.labels[sides, matches.slots] == matches.labels)
    return sides, matches.slots, matches.voted & there


def _of(side: int | Int[Array, ""]) -> Bool[Array, "2 1"]:
    return jnp.arange(2)[:, None] == side


def _emptied(state: PatternState, leaving: Bool[Array, "2 n"]) -> PatternState:
    return state._replace(
        vectors=jnp.where(leaving[..., None], 0.0, state.vectors),
        labels=jnp.where(leaving, EMPTY, state.labels),
        last_used=jnp.where(leaving, 0, state.last_used),
        importance=jnp.where(leaving, 0.0, state.importance),
    )
