"""What every sequence model checks of what it is given, when it is traced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from atlas_jax.types import ModelConfig, PyTree


def is_integer(value: object) -> bool:
    """Whether a number of things is one; that True is 1 is no reason to take it for that."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def are_integers(array: Any, axes: int) -> bool:
    """Whether this is an array of integers with so many axes."""
    return isinstance(array, jax.Array | np.ndarray) and array.ndim == axes and jnp.issubdtype(array.dtype, jnp.integer)


def told(array: Any) -> str:
    """What stands in an array's place, for a message."""
    return f"{array.dtype}{list(array.shape)}" if hasattr(array, "dtype") else f"a {type(array).__name__}"


def check_tokens(config: ModelConfig, tokens: Any) -> None:
    """Refuses tokens that the model is not meant for.

    Values are looked at where there are any, which is not so under `jit`: there a model may only answer with NaN.

    Args:
      config: of the model.
      tokens: [b, t] of one call; a longer text goes in as several calls with the state carried.

    Raises:
      ValueError: they are no [batch, time] of integers, none, more than `config.context` at once, or outside the vocabulary.
    """
    name = type(config).__name__.removesuffix("Config")
    if not are_integers(tokens, 2):
        raise ValueError(f"{name}: tokens are {told(tokens)}, expected integers [batch, time]")
    if 0 in tokens.shape:
        raise ValueError(f"{name}: tokens are {told(tokens)}, expected at least 1 sequence of at least 1 token")
    if tokens.shape[1] > config.context:
        raise ValueError(
            f"{name}: {tokens.shape[1]} tokens in one call, expected at most context = {config.context}; "
            "carry the state over several calls to go further"
        )
    if isinstance(tokens, Tracer) or not (isinstance(tokens, np.ndarray) or tokens.is_fully_addressable):
        return
    values = np.asarray(tokens)
    outside = (values < 0) | (values >= config.vocab_size)
    if outside.any():
        place = tuple(np.argwhere(outside)[0].tolist())
        raise ValueError(
            f"{name}: tokens{list(place)} is {values[place]}, expected 0 to {config.vocab_size - 1}, as vocab_size = "
            f"{config.vocab_size}"
        )


def check_token(config: ModelConfig, token: object) -> None:
    """Refuses what is no token for each sequence; of their values `check_tokens` tells.

    Raises:
      ValueError: they are no [batch] of integers.
    """
    if not are_integers(token, 1):
        name = type(config).__name__.removesuffix("Config")
        raise ValueError(f"{name}: token is {told(token)}, expected integers [batch]")


def check_batch(batch: Any) -> None:
    """Refuses a number of sequences that is none.

    Raises:
      ValueError: it is no integer, or below 1.
    """
    if not (is_integer(batch) and batch >= 1):
        raise ValueError(f"init_state: batch is {batch!r}, expected an integer of at least 1")


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
    if type(state) is not type(expected):
        raise ValueError(f"state is {type(state).__name__}, expected {kind} with the fields of this model")
    _check_arrays(kind, "for this model and batch", expected, state)


def check_params(expected: PyTree, params: PyTree) -> None:
    """Refuses the parameters of another config, which may well run, as another model than either.

    Args:
      expected: parameters of the right shapes, as `jax.eval_shape` of `init` gives them.
      params: those to check.

    Raises:
      ValueError: another structure, an array of another shape, or one of 16 bits; the message names it.
    """
    _check_arrays("params", "for this config", expected, params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.dtype.itemsize < 4:
            name = f"params{jax.tree_util.keystr(path)}"
            raise ValueError(f"{name} is {leaf.dtype}, expected float32: what is rounded the config's dtype says")


def _check_arrays(what: str, whose: str, expected: PyTree, found: PyTree) -> None:
    wanted, given = (
        {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (expected, found)
    )
    for path in [path for path in wanted if path not in given]:
        raise ValueError(f"{what}{path} is missing, expected {told(wanted[path])} {whose}")
    for path in [path for path in given if path not in wanted]:
        raise ValueError(f"{what}{path} is {told(given[path])}, expected nothing there {whose}")
    for path, leaf in given.items():
        if not hasattr(leaf, "shape"):
            raise ValueError(f"{what}{path} is {told(leaf)}, expected {told(wanted[path])} {whose}")
        if leaf.shape != wanted[path].shape:
            raise ValueError(f"{what}{path} has shape {leaf.shape}, expected {wanted[path].shape} {whose}")
    if jax.tree.structure(found) != jax.tree.structure(expected):
        raise ValueError(f"{what}: other containers than expected {whose}, though the arrays fit")
