"""What a memory refuses, when it is made or traced: what does not fit would be broadcast, or fail far from its cause."""

from __future__ import annotations

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from atlas_jax.memory.features import feature_count
from atlas_jax.memory.gradients import Loss
from atlas_jax.memory.networks import Network, Weights
from atlas_jax.memory.tokens import Tokens


def check_rule(rule: Any) -> None:
    """Refuses a rule that descends no known loss, over no window, or within bounds that are none.

    Args:
      rule: with a window, a loss and a limit, and perhaps a clip.

    Raises:
      ValueError: it names the field.
    """
    name = type(rule).__name__
    if rule.window < 1:
        raise ValueError(f"{name}.window is {rule.window}, expected at least 1")
    if rule.loss not in get_args(Loss):
        raise ValueError(f"{name}.loss is {rule.loss!r}, expected one of {', '.join(get_args(Loss))}")
    for field in ("limit", "clip"):
        bound = getattr(rule, field, None)
        if bound is not None and not bound > 0:
            raise ValueError(f"{name}.{field} is {bound}, expected more than 0, or None")


def check_tokens(tokens: Tokens) -> None:
    """Refuses tokens that are none, or of which a part is not as many, as long or as precise as the queries.

    Raises:
      ValueError: it names the part.
    """
    query, value = tokens.query, tokens.value
    if query.ndim != 4 or not jnp.issubdtype(query.dtype, jnp.floating):
        raise ValueError(
            f"tokens.query is {query.dtype}{list(query.shape)}, expected floats [batch, heads, time, width]"
        )
    for size, what in zip(query.shape, ("sequences", "heads", "tokens", "channels"), strict=True):
        if size < 1:
            raise ValueError(f"tokens.query has {size} {what}, expected at least 1")
    check_array("tokens.key", tokens.key, query.shape, query.dtype)
    check_array("tokens.value", value, (*query.shape[:3], *value.shape[-1:]), query.dtype)
    for name, gate in tokens.gates._asdict().items():
        check_array(f"tokens.gates.{name}", gate, query.shape[:3], query.dtype)


def check_beginning(
    network: Network,
    tokens: Tokens,
    weights: Weights,
    scales: Float[Array, "h i"] | None,
    persistent: Float[Array, "h p d"] | None,
) -> None:
    """Refuses parameters that are not this network's, or not for such tokens.

    Args:
      network: of the memory.
      tokens: [b, h, t, ...], checked.
      weights: each [h, i, o].
      scales: [h, i] of polynomial features; None: none.
      persistent: [h, p, d], keys of a projection; None: none.

    Raises:
      ValueError: it names the array.
    """
    _, heads, _, width = tokens.query.shape
    value_width, dtype = tokens.value.shape[-1], tokens.query.dtype
    if network.residual and width != value_width:
        raise ValueError(
            f"tokens.value has {value_width} channels, expected the {width} of a key: {network.name} adds it"
        )
    read = width
    if scales is not None:
        check_array("beginning.scales", scales, (heads, *scales.shape[1:2]), scales.dtype)
        read = feature_count(width, scales.shape[1] - 1)
    if persistent is not None:
        check_array("beginning.persistent", persistent, (heads, *persistent.shape[1:2], width), dtype)
    names = network.shapes(read, value_width, 1).keys()
    if weights.keys() != names:
        raise ValueError(f"beginning.weights holds {', '.join(weights)}, expected {', '.join(names)}: {network.name}")
    hidden = next(matrix.shape[-1] for name, matrix in weights.items() if name in network.first)
    for name, shape in network.shapes(read, value_width, hidden).items():
        check_array(f"beginning.weights[{name!r}]", weights[name], (heads, *shape), dtype)


def check_state(expected: PyTree, state: PyTree) -> None:
    """Refuses the state of another memory or batch.

    Args:
      expected: a state of the right kind.
      state: the one to check.

    Raises:
      ValueError: another structure, or an array of another shape or dtype, which it names.
    """
    names, found = ([jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(x)] for x in (expected, state))
    if odd := sorted(set(names) ^ set(found)):
        raise ValueError(
            f"state{odd[0]} is {'missing' if odd[0] in names else 'there'}, unlike in a state of this memory"
        )
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ValueError(f"state is {type(state).__name__}, expected the {type(expected).__name__} of this memory")
    for name, array, wanted in zip(names, jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        check_array(f"state{name}", array, wanted.shape, wanted.dtype)


def check_array(
    name: str, array: Array | np.ndarray | jax.ShapeDtypeStruct, shape: tuple[int, ...], dtype: jnp.dtype
) -> None:
    """Refuses an array of another shape or dtype.

    Raises:
      ValueError: it names the array.
    """
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}")
