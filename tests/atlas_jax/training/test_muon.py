"""Muon makes the matrices of layers orthogonal, one by one, and leaves all else to Adam."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from atlas_jax.models import registered
from atlas_jax.training.muon import decayed_matrices, layer_matrices, muon

PARAMS = {
    "blocks": {"out": jnp.ones((2, 3, 8, 4)), "convolution": jnp.ones((2, 4, 6)), "norm": jnp.ones((2, 8))},
    "embedding": jnp.ones((10, 8)),
}


def names(tree):
    return {jax.tree_util.keystr(path) for path, chosen in jax.tree_util.tree_leaves_with_path(tree) if chosen}


def test_matrices_of_layers_become_orthogonal_and_the_rest_goes_by_adam():
    optimizer = muon(clip_norm=None)
    gradients = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), PARAMS)
    direction, _ = jax.jit(optimizer.update)(gradients, optimizer.init(PARAMS), PARAMS)
    values = np.linalg.svd(np.asarray(direction["blocks"]["out"]), compute_uv=False)
    assert values.shape == (2, 3, 4)
    scale = 0.2 * 8**0.5  # brings an orthogonal 8 x 4 matrix to Adam's size
    assert ((values > 0.6 * scale) & (values < 1.3 * scale)).all()
    before = np.linalg.svd(np.asarray(gradients["blocks"]["out"]), compute_uv=False)
    assert (before.max(-1) / before.min(-1)).max() > 2, "the gradient was no orthogonal matrix"
    for given, found in ((gradients[k], direction[k]) for k in ("embedding",)):
        np.testing.assert_allclose(np.abs(found), np.abs(found).mean(), rtol=1e-3)
        assert (np.sign(found) == np.sign(given)).all(), "an ascent direction"


def test_decay_is_of_matrices_alone():
    optimizer = muon(weight_decay=0.5)
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    direction, _ = optimizer.update(still, optimizer.init(PARAMS), PARAMS)
    decayed = {name for name in names(decayed_matrices(PARAMS))}
    assert decayed == {"['blocks']['out']", "['embedding']"}
    np.testing.assert_allclose(direction["blocks"]["out"], 0.5)
    np.testing.assert_allclose(direction["embedding"], 0.5)
    np.testing.assert_allclose(direction["blocks"]["norm"], 0)
    np.testing.assert_allclose(direction["blocks"]["convolution"], 0)


def test_tables_of_the_registered_models_are_no_matrices():
    for name, model in registered().items():
        for config in (config for config in model.PRESETS.values() if config.d_model == 32):
            shapes = jax.eval_shape(lambda key, m=model, c=config: m.init(c, key), jax.random.key(0))
            chosen = names(layer_matrices(shapes))
            assert chosen, name
            wrong = ("norm", "bias", "rate", "frequency", "scale", "persistent", "convolution", "real", "imaginary")
            assert not [path for path in chosen if any(word in path.rsplit("[", 1)[-1] for word in wrong)], name
