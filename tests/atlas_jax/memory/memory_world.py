"""Small memories and tokens for them, drawn by NumPy: nothing to compile; float64 under x64."""

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.memory.delta import GatedDelta
from atlas_jax.memory.dual import Descent
from atlas_jax.memory.features import feature_count
from atlas_jax.memory.networks import GATED_MLP, MLP, NETWORKS
from atlas_jax.memory.one_step import OneStep
from atlas_jax.memory.sequence import Beginning
from atlas_jax.memory.tokens import Gates, Tokens

WIDTH, HIDDEN, LENGTH = 4, 6, 24
RULES = {
    "titans": Descent(MLP),
    "omega": Descent(GATED_MLP, 6),
    "muon": OneStep.atlas(MLP, 3),
    "lact": OneStep.lact(GATED_MLP),
    "delta": GatedDelta(),
}


def random_tokens(*, batch=1, heads=1, length=LENGTH, seed=0, width=WIDTH, rate=0.05):
    """Unit keys and queries, normal values, gates well inside their ranges; the rate is the largest theta."""
    draw, shape = np.random.default_rng(seed), (batch, heads, length)

    def unit():
        x = draw.normal(size=(*shape, width))
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    gates = Gates(
        np.log1p(-0.1 * draw.random(shape)),
        np.log(0.9 * draw.random(shape) + 0.05),
        rate * draw.random(shape),
        draw.random(shape),
    )
    return jax.tree.map(jnp.asarray, Tokens(unit(), unit(), draw.normal(size=(*shape, width)), gates))


def random_beginning(network, *, heads=1, seed=1, degree=None, persistent=0, width=WIDTH):
    """Weights of every head, with scales for a degree and so many persistent keys."""
    draw, read = np.random.default_rng(seed), width if degree is None else feature_count(width, degree)
    shapes = NETWORKS[network].shapes(read, width, HIDDEN)
    weights = {name: draw.normal(size=(heads, *shape)) * shape[0] ** -0.5 for name, shape in shapes.items()}
    scales = None
    if degree is not None:
        scales = np.array([1.0, 1.0, 0.7, 0.4])[: degree + 1] * (1 + 0.1 * draw.normal(size=(heads, degree + 1)))
    keys = draw.normal(size=(heads, persistent, width)) * width**-0.5 if persistent else None
    return jax.tree.map(jnp.asarray, Beginning(weights, scales, keys))


def one(tree):
    """The only head of the only sequence."""
    return jax.tree.map(lambda x: x[0, 0], tree)


def part(tokens, begin, end):
    """A stretch of every sequence."""
    return jax.tree.map(lambda x: x[:, :, begin:end], tokens)
