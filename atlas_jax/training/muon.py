"""Muon at unit learning rate for what maps channels to channels, AdamW for the rest."""

from __future__ import annotations

import jax
import optax
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers

# Parameters of the registered models that have the axes of a matrix and are none: tables of numbers by band, head or lag.
TABLES = frozenset(
    (
        "convolution",
        "frequency",
        "imaginary",
        "key_bias",
        "log_rate",
        "persistent",
        "persistent_keys",
        "persistent_values",
        "query_bias",
        "real",
        "scales",
        "slope",
        "threshold",
    )
)
BLOCKS = "blocks"  # parameters of the layers are stacked below this name, on a leading axis


def _name(path: tuple) -> str:
    last = path[-1]
    return str(getattr(last, "key", getattr(last, "name", last)))


def _stacked(path: tuple) -> bool:
    return bool(path) and getattr(path[0], "key", None) == BLOCKS


def layer_matrices(params: PyTree) -> PyTree:
    """True for the matrices of the layers, [n, ..., rows, columns]: what Muon makes orthogonal."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _stacked(path) and leaf.ndim >= 3 and _name(path) not in TABLES, params
    )


def decayed_matrices(params: PyTree) -> PyTree:
    """True for all matrices, embedding and head included: what weight decay acts on. Stacked biases have two axes too."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim >= (3 if _stacked(path) else 2) and _name(path) not in TABLES, params
    )


def muon(
    *,
    momentum: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.95,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> optax.GradientTransformation:
    """Muon as an *ascent* direction at unit learning rate, for `make_step`, as `optim.adamw` is one.

    Momentum of a layer's matrix is made orthogonal by Newton-Schulz and brought to Adam's usual root mean square of 0.2, so
    that both kinds of parameters share one learning rate and one decay. Heads and layers are matrices of their own.

    Args:
      momentum: of matrices, Nesterov's.
      b1, b2: of Adam, for embedding, head, biases and tables.
      weight_decay: of all matrices (`decayed_matrices`), multiplied by the learning rate like the rest.
      clip_norm: largest global norm of the gradient; None leaves it as it is.

    Source: Jordan 2024 (Muon); Liu et al. 2025 (arXiv:2502.16982), section 2.2, for the shared rate.
    """

    def dimensions(params: PyTree) -> PyTree:
        axes = MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)
        return jax.tree.map(lambda is_matrix: axes if is_matrix else None, layer_matrices(params))

    inner = optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.contrib.muon(
            -1.0,  # optax descends at the rate that it is given
            beta=momentum,
            adam_b1=b1,
            adam_b2=b2,
            muon_weight_dimension_numbers=dimensions,
            consistent_rms=0.2,
        ),
        optax.add_decayed_weights(weight_decay, mask=decayed_matrices),
    )

    def update(updates: PyTree, state: optax.OptState, params: PyTree = None) -> tuple[PyTree, optax.OptState]:
        # optax mixes Python floats with int32 counts, and adds vectors to rows
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)
