"""What the report says of activations is what the models put out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from spectral import resonance
from spectral.introspection import activations, spectral_metrics
from spectral.resonance import ResonanceConfig
from validation.activations import DESCRIBED, describe_activations

CONFIG = ResonanceConfig(vocab_size=50, d_model=8, layers=2, heads=2, context=32, chunk=32)


def test_every_model_is_described_by_its_own_last_layer():
    params = jax.vmap(lambda seed: resonance.init(CONFIG, jax.random.key(seed)))(jnp.arange(3))
    windows = np.random.default_rng(0).integers(0, 50, (DESCRIBED, 33), dtype=np.int32)
    found = describe_activations(CONFIG, params, windows)
    assert len(found) == 3
    for index, one in enumerate(found):
        own = jax.tree.map(lambda leaf, e=index: leaf[e], params)
        last = activations(CONFIG, own, jnp.asarray(windows[:, :-1]))[0][-1]
        np.testing.assert_allclose(
            [one.energy, one.entropy, one.concentration, one.variance, one.rank], spectral_metrics(last), rtol=1e-3
        )
    assert found[0] != found[1]


def test_a_model_that_repeats_itself_has_few_directions():
    params = jax.vmap(lambda seed: resonance.init(CONFIG, jax.random.key(seed)))(jnp.arange(1))
    same = np.full((4, 33), 7, np.int32)
    mixed = np.random.default_rng(0).integers(0, 50, (4, 33), dtype=np.int32)
    dull, lively = (describe_activations(CONFIG, params, windows)[0] for windows in (same, mixed))
    assert dull.variance < 0.1 * lively.variance
    assert dull.rank < lively.rank
