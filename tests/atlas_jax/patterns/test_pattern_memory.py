"""Record, touch, credit, evict, forget: any sequence of them equals the oracle, bit by bit."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns_world import CONFIG, Oracle, credit, equal, evict, find, forget, record, record_all, touch

from atlas_jax.patterns.calibration import Calibration, unfitted
from atlas_jax.patterns.memory import BAD, CLOCK_LIMIT, GOOD, PatternConfig, init_state, tick
from atlas_jax.training import Checkpointer

SIDES = st.integers(0, 1)
LABELS = st.integers(0, 7)
VECTORS = st.tuples(*[st.integers(-3, 3)] * CONFIG.width)  # whole numbers: distances, and so ties, are exact
OPERATIONS = st.one_of(
    st.tuples(st.just("record"), SIDES, LABELS, VECTORS, st.integers(0, 3)),
    st.tuples(st.just("read"), VECTORS),
    st.tuples(st.just("outcome"), SIDES),  # of the last read, whatever happened since
    st.tuples(st.just("evict"), SIDES),
    st.tuples(st.just("forget"), SIDES, LABELS),
)


def numbers(vector):
    return jnp.array(vector, jnp.float32)


def filled(importance=1.0):
    """Labels 0 to 3 on the bad side, in that order, far from one another."""
    state = init_state(CONFIG)
    for label in range(CONFIG.capacity):
        state, _ = record(CONFIG, state, BAD, label, numbers((10 * label, 0, 0)), importance)
    return state


def next_out(state):
    return int(record(CONFIG, state, BAD, 9, numbers((0, 99, 0)), 1.0)[1].replaced)


def read(state, label, truth=None):
    """A read that only the pattern of that label and one other answer to, and maybe its outcome."""
    matches = find(CONFIG, state, numbers((10 * label, 0, 0)))
    state = touch(state, matches._replace(voted=matches.voted & (matches.labels == label)))
    return state if truth is None else credit(CONFIG, state, matches, truth)


@settings(max_examples=60)
@given(st.lists(OPERATIONS, max_size=40))
def test_any_sequence_of_operations_equals_the_oracle(operations):
    oracle, state = Oracle(CONFIG), init_state(CONFIG)
    voters, matches = [], None
    for what, *given_ in operations:
        if what == "record":
            side, label, vector, importance = given_
            state, told = record(CONFIG, state, side, label, numbers(vector), float(importance))
            assert (int(told.slot), int(told.replaced)) == oracle.record(side, label, vector, importance)
        elif what == "read":
            voters, matches = oracle.voters(*given_), find(CONFIG, state, numbers(*given_))
            state = touch(state, matches)
            oracle.touch(voters)
        elif what == "outcome" and matches is not None:
            state = credit(CONFIG, state, matches, *given_)
            # A label that left and came back is a record of that label: its outcomes are its own.
            places = {
                (s, int(n)): int(p) for s in (0, 1) for n, p in zip(matches.labels[s], matches.slots[s], strict=True)
            }
            still = [v for v in voters if (slot := oracle.sides[v[0]][places[v]]) and slot.label == v[1]]
            oracle.credit(still, *given_)
        elif what == "evict":
            state, label = evict(state, *given_)
            assert int(label) == oracle.evict(*given_)
        elif what == "forget":
            state = forget(state, *given_)
            oracle.forget(*given_)
        equal(state, oracle)


def test_without_reads_and_outcomes_the_oldest_leaves():
    assert next_out(filled()) == 0


def test_a_read_saves_the_oldest():
    assert next_out(read(filled(), 0)) == 1


def test_an_outcome_saves_the_oldest_and_a_wrong_one_does_not():
    """Nobody is the oldest by reads: after as many records on the other side ages are about equal, and importance decides."""
    state = filled()
    for label in range(40):
        state, _ = record(CONFIG, state, GOOD, label, numbers((0, 50, label)), 1.0)
    matches = find(CONFIG, state, numbers((0, 0, 0)))
    assert sorted(np.asarray(matches.labels[BAD])[np.asarray(matches.voted[BAD])]) == [0, 1]
    assert next_out(state) == 0
    assert next_out(credit(CONFIG, state, matches, BAD)) == 2
    matches = find(CONFIG, state, numbers((30, 0, 0)))  # labels 3 and 2 vote
    assert next_out(credit(CONFIG, state, matches, GOOD)) == 2


def test_an_outcome_after_its_pattern_left_is_nobodys():
    state = filled()
    matches = find(CONFIG, state, numbers((0, 0, 0)))
    state, told = record(CONFIG, state, BAD, 9, numbers((0, 99, 0)), 1.0)
    assert int(told.replaced) == 0
    later = credit(CONFIG, state, matches, BAD)
    np.testing.assert_array_equal(later.importance[BAD], [1, 2, 1, 1])
    np.testing.assert_array_equal(touch(state, matches).last_used[BAD], [5, 6, 3, 4])


def test_importance_stays_within_its_limits():
    state = filled()
    for truth, expected in ((BAD, 3.0), (GOOD, 0.0)):
        for _ in range(7):
            state = credit(CONFIG, state, find(CONFIG, state, numbers((0, 0, 0))), truth)
        assert float(state.importance[BAD, 0]) == expected


@pytest.mark.parametrize(
    ("side", "label", "vector", "importance"),
    [
        (2, 9, (1, 1, 1), 1.0),
        (-1, 9, (1, 1, 1), 1.0),
        (BAD, -1, (1, 1, 1), 1.0),
        (BAD, 9, (1, np.nan, 1), 1.0),
        (BAD, 9, (1, np.inf, 1), 1.0),
        (BAD, 9, (1e19, 1, 1), 1.0),
        (BAD, 9, (1, 1, 1), -0.5),
        (BAD, 9, (1, 1, 1), 3.5),
        (BAD, 9, (1, 1, 1), np.nan),
    ],
)
def test_what_cannot_be_stored_is_refused_and_said_to_be(side, label, vector, importance):
    state = filled()
    after, told = record(CONFIG, state, side, label, numbers(vector), importance)
    assert (int(told.slot), int(told.replaced)) == (-1, -1)
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("side", [-1, 2])
def test_there_is_no_third_side(side):
    state = filled()
    after, label = evict(state, side)
    assert int(label) == -1
    for other in (after, forget(state, side, 0), credit(CONFIG, state, find(CONFIG, state, state.vectors[1, 0]), side)):
        jax.tree.map(np.testing.assert_array_equal, other, state)


def test_many_at_once_are_one_after_the_other():
    rng = np.random.default_rng(0)
    sides, labels = rng.integers(0, 2, 20), rng.integers(0, 8, 20)
    vectors, importance = rng.standard_normal((20, 3)).astype(np.float32), rng.integers(0, 4, 20).astype(np.float32)
    state, told = record_all(CONFIG, init_state(CONFIG), *map(jnp.asarray, (sides, labels, vectors, importance)))
    one, slots = init_state(CONFIG), []
    for row in zip(sides, labels, vectors, importance, strict=True):
        one, recorded = record(CONFIG, one, int(row[0]), int(row[1]), jnp.asarray(row[2]), float(row[3]))
        slots.append(int(recorded.slot))
    jax.tree.map(np.testing.assert_array_equal, state, one)
    assert told.slot.tolist() == slots


def test_the_clock_lasts_for_ever():
    """At its limit ages stay, so that the same pattern leaves, and only what is older than half the limit becomes that old."""
    state = filled()
    ages = np.array([7, 5, 100, CLOCK_LIMIT - 1])
    state = state._replace(clock=jnp.int32(CLOCK_LIMIT), last_used=state.last_used.at[BAD].set(CLOCK_LIMIT - ages))
    after = tick(state)
    assert int(after.clock) == CLOCK_LIMIT // 2 + 1
    np.testing.assert_array_equal(int(after.clock) - after.last_used[BAD], [8, 6, 101, CLOCK_LIMIT // 2 + 1])
    np.testing.assert_array_equal(after.last_used[GOOD], 0)
    assert int(after.last_used.min()) >= 0
    assert next_out(state) == 3


def test_the_state_never_grows_and_many_calls_compile_once():
    config = PatternConfig(width=2, capacity=3, neighbours=1)
    state = init_state(config)
    size = sum(leaf.nbytes for leaf in state)
    assert size == 8 * 3 * (2 + 3) + 4
    functions = (record, find, touch, credit, evict, forget)
    before = [function._cache_size() for function in functions]
    for label in range(30):
        state, _ = record(config, state, label % 2, label, jnp.ones(2) * label, 1.0)
        matches = find(config, state, jnp.ones(2) * label)
        state = credit(config, touch(state, matches), matches, label % 2)
        if label % 7 == 0:
            state, _ = evict(forget(state, label % 2, label), label % 2)
        assert sum(leaf.nbytes for leaf in state) == size
    assert [function._cache_size() - one for function, one in zip(functions, before, strict=True)] == [1] * 6


def test_a_saved_state_goes_on_bit_by_bit_the_same(tmp_path):
    """Through Orbax and through plain arrays."""
    rng = np.random.default_rng(1)
    calibration = Calibration(jnp.float32(1 / 3), jnp.float32(-0.1), jnp.float32(0.7))
    state = read(filled(), 0, BAD)._replace(vectors=jnp.asarray(rng.standard_normal((2, 4, 3)), jnp.float32))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, (state, calibration), {})
        (restored, again), _, _ = checkpointer.restore(jax.eval_shape(lambda: (init_state(CONFIG), unfitted())))
    assert again == calibration
    file = io.BytesIO()
    np.savez(file, **state._asdict())
    file.seek(0)
    plain = type(state)(**{name: jnp.asarray(array) for name, array in np.load(file).items()})
    for other in (restored, plain):
        for one, two in zip(state, other, strict=True):
            assert one.dtype == two.dtype
            assert np.asarray(one).tobytes() == np.asarray(two).tobytes()
        jax.tree.map(np.testing.assert_array_equal, read(other, 1, GOOD), read(state, 1, GOOD))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("width", 0, "width=0, expected 1 or more"),
        ("capacity", 0, "capacity=0, expected 1 or more"),
        ("neighbours", 1001, "neighbours=1001, expected at most capacity=1000"),
        ("importance_limit", 0.5, r"importance_limit=0.5, expected 1.0 or more"),
        ("importance_limit", float("nan"), "importance_limit=nan"),
    ],
)
def test_a_size_that_cannot_be_is_named(field, value, said):
    with pytest.raises(ValueError, match=said):
        PatternConfig(**{field: value})


def test_shapes_of_another_configuration_are_named():
    with pytest.raises(ValueError, match=r"vector has shape \(4,\), expected the last axis to be width=3"):
        record(CONFIG, init_state(CONFIG), GOOD, 0, jnp.zeros(4), 1.0)
    with pytest.raises(ValueError, match=r"state.vectors has shape \(2, 1000, 256\), expected \(2, 4, 3\)"):
        record(CONFIG, init_state(PatternConfig()), GOOD, 0, jnp.zeros(3), 1.0)
