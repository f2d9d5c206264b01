"""Rules that move the weights once a chunk, against what was published; token by token they are in `test_all_pairs`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compiled
from memory_world import WIDTH, one, random_beginning, random_tokens

from atlas_jax.memory.networks import GATED_MLP, MLP, Network
from atlas_jax.memory.newton_schulz import CLASSIC, TUNED
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.reference import newton_schulz
from atlas_jax.memory.tokens import Gates

LENGTH = 18


def world(network):
    """First weights and tokens of one head."""
    beginning, tokens = random_beginning(network.name), one(random_tokens(length=LENGTH))
    tokens = tokens._replace(gates=tokens.gates._replace(rate=0.05 + 4 * tokens.gates.rate))
    return {name: matrix[0] for name, matrix in beginning.weights.items()}, tokens


def run(rule, weights, tokens, chunk):
    """Outputs, and weights and momentum after the last chunk, of a whole number of chunks."""

    def learn(state, tokens):
        return rule.advance(rule.open(state), tokens, jnp.int32(chunk))

    cut = jax.tree.map(lambda x: x.reshape(-1, chunk, *x.shape[1:]), tokens)
    state, outputs = jax.lax.scan(learn, rule.start(weights, WIDTH, WIDTH), cut)
    state = rule.open(state)
    return outputs.reshape(-1, WIDTH), state.weights, state.momentum


def norms(matrix):
    return (matrix * matrix).sum(axis=0, keepdims=True) ** 0.5


def as_long_as(matrix, first):
    return matrix / norms(matrix) * norms(first)


def close(got, expected, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def test_any_split_of_a_chunk_gives_what_the_whole_gives():
    """Pieces of 5 tokens of which fewer count: the others, here the next ones and then large ones, change nothing."""
    with jax.enable_x64(True):
        rule = OneStep(MLP, window=3, orthogonalise=CLASSIC[:1], unit_columns=True)
        initial, tokens = world(MLP)
        padded = jax.tree.map(lambda x: np.concatenate([x, 9 + np.zeros_like(x[:5])]), tokens)
        advance, begin = compiled(rule.advance), compiled(rule.open)
        whole = split = rule.start(initial, WIDTH, WIDTH)
        place = 0
        for sizes in ((3, 0, 5, 1), (1, 4, 4)):
            nine = jax.tree.map(lambda x, p=place: x[p : p + 9], padded)
            whole, outputs = advance(begin(whole), nine, jnp.int32(9))
            split, parts = begin(split), []
            for size in sizes:
                piece = jax.tree.map(lambda x, p=place: x[p : p + 5], padded)
                split, out = advance(split, piece, jnp.int32(size))
                parts.append(np.asarray(out)[:size])
                place += size
            close(np.concatenate(parts), outputs, 1e-13)
            close(split, whole, 1e-12)
        close(begin(split), begin(whole), 1e-12)
        assert int(whole.learnt) == 9


def test_what_follows_tokens_without_momentum_keeps_its_precision():
    """In float32, after 100 of them, differences of sums of logarithms near -10,000 are off by 2e-4."""
    rule, length = OneStep(MLP), 200
    with jax.enable_x64(True):
        beginning, tokens = random_beginning("mlp"), one(random_tokens(length=length))
        log_momentum = jnp.where(jnp.arange(length) < length // 2, -jnp.inf, tokens.gates.log_momentum)
        tokens = tokens._replace(gates=tokens.gates._replace(log_momentum=log_momentum))
        given = {name: matrix[0] for name, matrix in beginning.weights.items()}, tokens
        *_, exact = compiled(run, static_argnums=(0, 3))(rule, *given, length)
    *_, momentum = compiled(run, static_argnums=(0, 3))(
        rule, *jax.tree.map(lambda x: x.astype(jnp.float32), given), length
    )
    for got, wanted in zip(*map(jax.tree.leaves, (momentum, exact)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6 * np.abs(wanted).max())


def test_opening_before_anything_is_learnt_changes_nothing():
    rule = OneStep(MLP, orthogonalise=TUNED[:1], unit_columns=True)
    initial, tokens = world(MLP)
    initial = jax.tree.map(lambda x: x.at[:, 0].set(0.0), initial)  # columns that cannot be brought to a length
    begin, advance = compiled(rule.open), compiled(rule.advance)
    fresh = rule.start(initial, WIDTH, WIDTH)
    for state in (begin(fresh), begin(begin(fresh))):
        jax.tree.map(np.testing.assert_array_equal, state, fresh)
    state, outputs = advance(begin(fresh), tokens, jnp.int32(LENGTH))
    jax.tree.map(np.testing.assert_array_equal, state.weights, initial)  # a chunk is read from its start
    np.testing.assert_array_equal(outputs, advance(fresh, tokens, jnp.int32(0))[1])
    once = begin(state)
    jax.tree.map(np.testing.assert_array_equal, begin(once), once)
    assert all((np.asarray(once.weights[name]) != initial[name]).any() for name in initial)

    def after(state):  # of no momentum, and of columns of zeros
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(rule.open(state).weights))

    gradients = compiled(jax.grad(after, allow_int=True))(fresh._replace(learnt=jnp.int32(1)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients._replace(learnt=())))


def test_the_future_changes_nothing_and_a_chunk_is_not_read_by_itself():
    with jax.enable_x64(True):
        rule = OneStep.atlas(window=3)
        initial, tokens = world(MLP)
        memory = compiled(lambda tokens: run(rule, initial, tokens, 6)[0])
        before = np.asarray(memory(tokens))
        for place in (0, 5, 6, 8):
            factor = np.where(np.arange(LENGTH) == place, 0.5, 1.0)
            changed = jax.tree.map(lambda x, f=factor: (np.asarray(x).T * f).T, tokens)
            after = np.asarray(memory(changed))
            same = np.arange(LENGTH) < place // 6 * 6 + 6
            same[place] = False
            np.testing.assert_array_equal(after[same], before[same])
            assert (np.abs(after[~same] - before[~same]).max(axis=1) > 1e-6).all()


def test_atlas_with_chunks_of_one_token_is_the_printed_equations():
    """ATLAS 32 and 33: M_t = alpha_t M_{t-1} - eta_t NS(S_t), S_t = theta_t S_{t-1} + the gradient of the window, with their
    letters alpha for what is kept, theta for momentum and eta for a rate, which is the same for all tokens here."""
    with jax.enable_x64(True):
        rule = OneStep.atlas(window=3)
        initial, tokens = world(MLP)
        tokens = tokens._replace(gates=tokens.gates._replace(rate=jnp.full(LENGTH, 0.1)))
        alpha, theta = (jnp.exp(logs) for logs in tokens.gates[:2])

        def loss(weights, seen):
            hidden = jax.nn.gelu(tokens.key @ weights["up"], approximate=True)
            error = tokens.key + hidden @ weights["down"] - tokens.value
            return jnp.sum(jnp.where(seen, tokens.gates.strength, 0.0) * jnp.sum(error**2, axis=1))

        def token(carry, t):
            weights, momentum = carry
            seen = (jnp.arange(LENGTH) <= t) & (jnp.arange(LENGTH) > t - 3)
            momentum = jax.tree.map(lambda s, g: theta[t] * s + g, momentum, jax.grad(loss)(weights, seen))
            weights = jax.tree.map(lambda w, s: alpha[t] * w - 0.1 * newton_schulz(s, CLASSIC), weights, momentum)
            return (weights, momentum), weights

        zeros = jax.tree.map(jnp.zeros_like, initial)
        _, expected = compiled(lambda: jax.lax.scan(token, (initial, zeros), jnp.arange(LENGTH)))()

        def ours():
            def learn(state, tokens):
                state, _ = rule.advance(state, tokens, jnp.int32(1))
                state = rule.open(state)
                return state, state.weights

            return jax.lax.scan(learn, rule.start(initial, WIDTH, WIDTH), jax.tree.map(lambda x: x[:, None], tokens))[1]

        # NS sees S scaled by 0.1: the 1e-7 beside the norm is all that differs.
        close(compiled(ours)(), expected, 1e-5)
        assert max(float(jnp.abs(leaf[-1] - leaf[0]).max()) for leaf in jax.tree.leaves(expected)) > 0.1


@pytest.mark.parametrize("coefficients", [None, TUNED], ids=["momentum", "muon"])
def test_lact_is_what_was_published(coefficients):
    """With the gradients of SwiGLU, f(x) = w1 (silu(w0 x) * (w2 x)), written out, and one mean momentum factor a chunk."""

    def swiglu(linear, x):
        return linear("w1", jax.nn.silu(linear("w0", x)) * linear("w2", x))

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    rule = OneStep.lact(Network("swiglu", swiglu, GATED_MLP.shapes, frozenset({"w0", "w2"})), coefficients)
    with jax.enable_x64(True):
        first, tokens = jax.tree.map(np.asarray, world(GATED_MLP))
        first, chunk = {"w0": first["gate"], "w1": first["down"], "w2": first["up"]}, 6
        rate = tokens.gates.rate if coefficients is None else np.ones(LENGTH)  # their Muon steps by 1
        eta = np.exp(tokens.gates.log_momentum).reshape(-1, chunk).mean(1)
        log_momentum = np.zeros(LENGTH)
        log_momentum[::chunk] = np.log(eta)
        gates = Gates(np.zeros(LENGTH), log_momentum, rate, np.ones(LENGTH))

        w, momentum, outputs = first, dict.fromkeys(first, 0.0), []
        for c in range(LENGTH // chunk):
            part = slice(c * chunk, (c + 1) * chunk)
            q, k, v, lr = tokens.query[part], tokens.key[part], tokens.value[part], rate[part, None]
            asked = q @ w["w0"]
            outputs.append((asked * sigmoid(asked) * (q @ w["w2"])) @ w["w1"])
            gate, hidden, back = k @ w["w0"], k @ w["w2"], v @ w["w1"].T
            sigma = sigmoid(gate)
            gradient = {
                "w0": (lr * k).T @ (back * hidden * sigma * (1 + gate * (1 - sigma))),
                "w1": (lr * gate * sigma * hidden).T @ v,
                "w2": (lr * k).T @ (back * gate * sigma),
            }
            momentum = {name: eta[c] * momentum[name] + gradient[name] for name in w}
            step = (
                momentum
                if coefficients is None
                else {n: newton_schulz(jnp.asarray(s), coefficients) for n, s in momentum.items()}
            )
            w = {name: as_long_as(w[name] + step[name], first[name]) for name in w}

        got = compiled(lambda first, tokens: run(rule, first, tokens, chunk))(first, tokens._replace(gates=gates))
        close(got, (np.concatenate(outputs), w, momentum), 1e-11)


def test_columns_keep_the_norms_of_the_first_weights():
    with jax.enable_x64(True):
        rule = OneStep(MLP, unit_columns=True)
        initial, tokens = world(MLP)
        _, weights, _ = jax.tree.map(np.asarray, compiled(lambda: run(rule, initial, tokens, 3))())
        for name, first in jax.tree.map(np.asarray, initial).items():
            np.testing.assert_allclose(norms(weights[name]), norms(first), rtol=1e-14)
            assert np.abs(weights[name] - first).max() > 0.05
