"""How the activations of trained models spread over frequencies and channels: described in the report, judged by nothing."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from jaxtyping import Int, PyTree

from spectral.introspection import layer_outputs, spectral_metrics
from spectral.resonance import ResonanceConfig
from validation.report.model import Activations

DESCRIBED = 16  # windows: enough for two digits


def describe_activations(
    config: ResonanceConfig, params: PyTree, windows: Int[np.ndarray, "n t1"]
) -> list[Activations]:
    """Spectral metrics of the last layer of every model on some held-out windows.

    Args:
      config: size of the models.
      params: of e models, stacked [e, ...].
      windows: of held-out text; the first few are read, evenly spread.
    """
    chosen = np.unique(np.linspace(0, len(windows) - 1, DESCRIBED).astype(int))
    outputs = jax.jit(partial(layer_outputs, config))
    found = []
    for index in range(jax.tree.leaves(params)[0].shape[0]):
        own = jax.tree.map(lambda leaf, e=index: leaf[e], params)
        last = np.asarray(outputs(own, windows[chosen, :-1])[-1], np.float32)
        found.append(Activations(**spectral_metrics(last)._asdict()))
    return found
