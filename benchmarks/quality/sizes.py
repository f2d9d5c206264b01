"""Models brought to one number of parameters by their feed-forward."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax


def parameters_of(model: Any, config: Any) -> int:
    """Numbers that a model of this config trains."""
    shapes = jax.eval_shape(partial(model.init, config), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def with_parameters(name: str, model: Any, config: Any, parameters: int) -> Any:
    """The config with the feed-forward that brings the model closest to a number of parameters; `name` is for the message.

    Raises:
      ValueError: the model has more without a feed-forward.
    """
    one, two = (parameters_of(model, replace(config, feed_forward=width)) for width in (1, 2))
    width = 1 + round((parameters - one) / (two - one))
    if width < 1:
        raise ValueError(f"{name} has {one:,} parameters with a feed-forward of 1, expected at most {parameters:,}")
    return replace(config, feed_forward=width)
