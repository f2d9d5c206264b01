"""Float64 oracle of the Temporal Eigenstate model, written as the definition: NumPy, one token after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from atlas_jax.types import PyTree
from spectral.eigenstate import EigenstateConfig
from spectral.resonance import EMBEDDING_SCALE


def _rms_norm(x: Any, scale: Any) -> Any:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale


def _silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def mixer(config: EigenstateConfig, params: PyTree, x: Float[np.ndarray, "b t d"]) -> Float[np.ndarray, "b t d"]:
    """What `HierarchicalTEN` says of normalised activations, from the start of a sequence.

    Args:
      config: of the model.
      params: of one layer's mixer.
      x: [b, t, d].
    """
    cell, coupling, gate = params["cell"], params["coupling"], params["gate"]
    batch, length, d = x.shape
    heads, modes, width = config.heads, config.modes, d // (2 * config.heads)
    mixed = np.zeros_like(x)
    for row in range(batch):
        state = np.zeros((heads, modes, width), complex)
        blocks: list[list[Any]] = [[] for _ in range(heads)]
        for t in range(length):
            parts = (x[row, t] @ cell["in"]).reshape(heads, 2, width)
            moved = (x[row, t] @ cell["rate"]).reshape(heads, modes) if config.selective else np.zeros((heads, modes))
            for head in range(heads):
                blocks[head].append((parts[head, 0] + 1j * parts[head, 1], moved[head]))
                if len(blocks[head]) == config.scales[head * len(config.scales) // heads]:
                    inputs, log_rates = (np.mean(part, axis=0) for part in zip(*blocks[head], strict=True))
                    rate = np.exp(cell["log_rate"][head] + log_rates)
                    eigenvalue = np.exp(-rate + 1j * cell["frequency"][head])[:, None]
                    state[head] = eigenvalue * state[head] + np.sqrt(1 - np.abs(eigenvalue) ** 2) * inputs
                    blocks[head] = []
            weights = coupling["real"] + 1j * coupling["imaginary"]
            read = np.einsum("hm,hmw->hw", weights, state)
            flat = np.concatenate([read.real, read.imag], axis=1).ravel()
            mixed[row, t] = (flat * _silu(x[row, t] @ gate["gate"])) @ gate["out"]
    return mixed


def logits(config: EigenstateConfig, params: PyTree, tokens: Int[np.ndarray, "b t"]) -> Float[np.ndarray, "b t v"]:
    """What `spectral.eigenstate.apply` gives from the start of a sequence; params are float64 NumPy arrays."""
    x = params["embedding"][tokens] * EMBEDDING_SCALE
    blocks = params["blocks"]
    for n in range(config.layers):
        layer = {name: {key: value[n] for key, value in blocks[name].items()} for name in blocks if name != "mixer"}
        parts = {name: {key: value[n] for key, value in part.items()} for name, part in blocks["mixer"].items()}
        x = x + mixer(config, parts, _rms_norm(x, layer["mixer_norm"]["scale"]))
        inner = _rms_norm(x, layer["feed_forward_norm"]["scale"]) @ layer["feed_forward"]["up"]
        x = x + np.maximum(inner, 0) ** 2 @ layer["feed_forward"]["down"]
    return _rms_norm(x, params["norm"]) @ params["head"]
