"""What every sequence model checks of its inputs, when it is traced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from atlas_jax.types import ModelConfig, PyTree


def check_tokens(config: ModelConfig, tokens: Array | np.ndarray) -> None:
    """Refuses tokens that the model is not meant for.

    Args:
      config: of the model.
      tokens: [b, t] of one call; a longer text goes in as several calls with the state carried.

    Raises:
      ValueError: they are no [batch, time] of integers, or more than `config.context` at once.
    """
    name = type(config).__name__.removesuffix("Config")
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"{name}: tokens are {tokens.dtype}{list(tokens.shape)}, expected integers [batch, time]")
    if tokens.shape[1] > config.context:
        raise ValueError(
            f"{name}: {tokens.shape[1]} tokens in one call, expected at most context = {config.context}; "
            "carry the state over several calls to go further"
        )


def check_state(expected: PyTree, state: PyTree) -> None:
    """Refuses the state of another model or batch.

    Args:
      expected: a state of the right shapes, as `jax.eval_shape` of `init_state` gives it.
      state: the one to check; `None` is the start of a sequence and always right.

    Raises:
      ValueError: another structure, or an array of another shape; the message names it.
    """
    if state is None:
        return
    kind = type(expected).__name__
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(f"state is {type(state).__name__}, expected {kind} with the fields of this model")
    found = jax.tree_util.tree_leaves_with_path(state)
    for (path, leaf), wanted in zip(found, jax.tree.leaves(expected), strict=True):
        if leaf.shape != wanted.shape:
            raise ValueError(
                f"{kind}{jax.tree_util.keystr(path)} has shape {leaf.shape}, expected {wanted.shape} for this model "
                "and batch"
            )
