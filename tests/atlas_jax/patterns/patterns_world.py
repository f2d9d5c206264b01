"""The memory of patterns once more, in numpy and lists of slots, and the jitted functions that are held to it."""

from dataclasses import dataclass, field

import jax
import numpy as np

from atlas_jax.patterns import memory, nearest
from atlas_jax.patterns.memory import PatternConfig

CONFIG = PatternConfig(width=3, capacity=4, neighbours=2, importance_limit=3.0)

record = jax.jit(memory.record, static_argnums=0)
record_all = jax.jit(memory.record_all, static_argnums=0)
touch = jax.jit(memory.touch)
credit = jax.jit(memory.credit, static_argnums=0)
evict = jax.jit(memory.evict)
forget = jax.jit(memory.forget)
find = jax.jit(nearest.nearest, static_argnums=0)
score = jax.jit(nearest.score, static_argnums=0)
left_out = jax.jit(nearest.left_out, static_argnums=0)


@dataclass
class Slot:
    label: int
    vector: tuple
    last_used: int
    importance: float


@dataclass
class Oracle:
    """Two lists of slots; None is an empty one. Everything a sentence of the docstrings says, as slowly as it can be said."""

    config: PatternConfig
    clock: int = 0
    sides: list = field(default_factory=list)

    def __post_init__(self):
        self.sides = [[None] * self.config.capacity for _ in range(2)]

    def record(self, side, label, vector, importance):
        slots = self.sides[side]
        labels = [slot.label if slot else None for slot in slots]
        replaced = -1
        if label in labels:
            place = labels.index(label)
        elif None in slots:
            place = slots.index(None)
        else:
            place = self.oldest(side)
            replaced = slots[place].label
        self.clock += 1
        slots[place] = Slot(label, vector, self.clock, importance)
        return place, replaced

    def oldest(self, side):
        held = [i for i, slot in enumerate(self.sides[side]) if slot]
        return max(held, key=lambda i: (self.priority(self.sides[side][i]), -i)) if held else None

    def priority(self, slot):
        return np.float32(self.clock - slot.last_used) / np.float32(slot.importance + 1)

    def evict(self, side):
        place = self.oldest(side)
        if place is None:
            return -1
        label, self.sides[side][place] = self.sides[side][place].label, None
        return label

    def forget(self, side, label):
        self.sides[side] = [None if slot and slot.label == label else slot for slot in self.sides[side]]

    def voters(self, vector):
        """(side, label) of the nearest of both sides together; of equal ones good before bad, then the lower slot."""
        nearest = sorted(
            (sum((a - b) ** 2 for a, b in zip(slot.vector, vector, strict=True)), side, place, slot.label)
            for side in (0, 1)
            for place, slot in enumerate(self.sides[side])
            if slot
        )
        return [(side, label) for _, side, _, label in nearest[: self.config.neighbours]]

    def of(self, voters):
        return [(side, slot) for side, label in voters for slot in self.sides[side] if slot and slot.label == label]

    def touch(self, voters):
        self.clock += 1
        for _, slot in self.of(voters):
            slot.last_used = self.clock

    def credit(self, voters, truth):
        for side, slot in self.of(voters):
            slot.importance = min(max(slot.importance + (1 if side == truth else -1), 0), self.config.importance_limit)

    def distances(self, vector, side, but=None):
        vectors = [slot.vector for slot in self.sides[side] if slot and slot is not but]
        return sorted(float(np.linalg.norm(np.subtract(other, vector))) for other in vectors)

    def evidence(self, vector, but=None):
        good, bad = (self.distances(vector, side, but) for side in (0, 1))
        rank = min(self.config.neighbours, len(good), len(bad))
        if rank == 0:
            return None
        g, b = good[rank - 1], bad[rank - 1]
        return (g - b) / (g + b) if g + b else 0.0

    def arrays(self):
        """The state as the pytree has it."""
        empty = Slot(-1, (0,) * self.config.width, 0, 0.0)
        rows = [[slot or empty for slot in side] for side in self.sides]
        return [
            np.array([[getattr(slot, name) for slot in side] for side in rows], kind)
            for name, kind in (
                ("vector", np.float32),
                ("label", np.int32),
                ("last_used", np.int32),
                ("importance", np.float32),
            )
        ] + [np.int32(self.clock)]


def equal(state, oracle):
    for name, got, expected in zip(state._fields, state, oracle.arrays(), strict=True):
        np.testing.assert_array_equal(got, expected, err_msg=name)
