"""Gates of memories in training: their statistics, and a loss that makes them decide.

The gates of a pass come with its features (`atlas.features_and_gates`), so that a loss on them has a gradient and costs no second
pass. All are 0 to 1: how much is forgotten, the momentum, the share of the largest inner rate, the strength in windows.

Polarisation, lambda(step) * mean(1 - |2 g - 1|), pushes every gate to 0 or 1: gates that stay near their start teach every token
alike. It is an option: off unless a step is made with it, and the loss without it is reported beside it. It says nothing about
differences between tokens: gates that are all at the same end have no loss and do not work, which is what `gate_watch` sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn.memory import GATE_BIAS, GateValues
from atlas_jax.training.losses import cross_entropy, weighted_mean
from atlas_jax.training.state import TrainState
from atlas_jax.training.step import LossFn, Metrics, Step, make_step

GatedLoss = Callable[
    [PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], dict[str, Any], Sequence[GateValues]]
]  # (params, batch, key) to (loss, aux, gates): a `LossFn` that hands out the gates of its pass

POLARISED = 0.8  # |2 g - 1| beyond which a gate has decided: below 0.1 or above 0.9


def next_token_loss(config: AtlasConfig) -> GatedLoss:
    """The loss that language models train on, and the gates of the same pass; see `runs.programs.next_token_loss`.

    Args:
      config: of the model.

    Returns:
      `(params, {"tokens": int32 [b, t + 1], ...}, key) -> (loss, {}, gates)`.
    """

    def loss_fn(params: PyTree, batch: PyTree, key: Array) -> tuple[Array, dict[str, Any], Sequence[GateValues]]:
        del key  # nothing in the model is random
        tokens = jnp.asarray(batch["tokens"])
        x, _, gates = atlas.features_and_gates(config, params, tokens[:, :-1])
        return weighted_mean(cross_entropy(x, atlas.head_weights(config, params), tokens[:, 1:]), batch), {}, gates

    return loss_fn


def polarisation(gates: Sequence[GateValues]) -> Float[Array, ""]:
    """mean(1 - |2 g - 1|) over all gates: 1 where all are half open, 0 where all are open or shut."""
    leaves = jax.tree.leaves(gates)
    total = sum(jnp.sum(1.0 - jnp.abs(2.0 * leaf - 1.0)) for leaf in leaves)
    return jnp.asarray(total) / sum(leaf.size for leaf in leaves)


def polarisation_weight(steps: int, *, peak: float = 10.0, floor: float = 0.1, hold: float = 0.1) -> optax.Schedule:
    """lambda by step: the peak for a share of all steps, then down to the floor by a constant factor a step.

    Args:
      steps: of the whole training.
      peak, floor: first and last lambda, both above 0.
      hold: share of the steps at the peak.

    Returns:
      Completed steps, traced or not, to lambda, float32: with the defaults 10, then 10 * 0.01^progress.

    Raises:
      ValueError: a number is out of range.
    """
    if steps < 1 or not 0 <= hold < 1 or min(peak, floor) <= 0:
        raise ValueError(
            f"polarisation_weight: steps={steps}, peak={peak}, floor={floor}, hold={hold}; expected at least 1 step, peak and "
            "floor above 0, and hold from 0 to below 1"
        )
    held = hold * steps

    def weight(count: Any) -> Float[Array, ""]:
        progress = (jnp.asarray(count, jnp.float32) - held) / (steps - held)
        return peak * (floor / peak) ** jnp.clip(progress, 0.0, 1.0)

    return weight


def gate_statistics(gates: Sequence[GateValues]) -> Metrics:
    """What telemetry tells of the gates of a pass, in the graph.

    Args:
      gates: of every memory, by kind, any leading axes.

    Returns:
      float32 scalars: gate_{kind}_mean, _std and _polarised (the share with |2 g - 1| > 0.8) of every kind over layers,
      memories, heads and tokens; gate_polarised of all gates; gate_variance, the mean over kinds of the variance within a kind
      (that kinds differ from one another says nothing), and gate_std, its root.
    """
    found: Metrics = {}
    shares, variances = [], []
    for kind in GATE_BIAS:
        leaves = [memory[kind].astype(jnp.float32).reshape(-1) for memory in gates if kind in memory]
        if not leaves:
            continue
        values = jnp.concatenate(leaves)
        shares.append((jnp.sum(jnp.abs(2.0 * values - 1.0) > POLARISED).astype(jnp.float32), values.size))
        variances.append(jnp.var(values))
        share = shares[-1][0] / values.size
        named = {"mean": jnp.mean(values), "std": jnp.sqrt(variances[-1]), "polarised": share}
        found |= {f"gate_{kind}_{name}": value for name, value in named.items()}
    variance = jnp.mean(jnp.stack(variances))
    polarised = jnp.sum(jnp.stack([count for count, _ in shares])) / sum(size for _, size in shares)
    return found | {"gate_polarised": polarised, "gate_variance": variance, "gate_std": jnp.sqrt(variance)}


def with_gate_statistics(gated: GatedLoss) -> LossFn:
    """The loss as it is, with `gate_statistics` in its aux. Under accumulation they are means over the parts."""

    def loss_fn(params: PyTree, batch: PyTree, key: Array) -> tuple[Float[Array, ""], dict[str, Any]]:
        loss, aux, gates = gated(params, batch, key)
        return loss, aux | gate_statistics(jax.lax.stop_gradient(gates))

    return loss_fn


def polarised(gated: GatedLoss, weight: Float[Array, ""] | float) -> LossFn:
    """The loss and `weight` times the polarisation of its gates.

    Args:
      gated: the loss without it.
      weight: lambda; may be traced.

    Returns:
      The sum; its aux has that of `gated`, `gate_statistics`, task_loss (without the term), polarisation (without lambda) and
      polarisation_weight.
    """

    def loss_fn(params: PyTree, batch: PyTree, key: Array) -> tuple[Float[Array, ""], dict[str, Any]]:
        loss, aux, gates = gated(params, batch, key)
        term, factor = polarisation(gates), jnp.asarray(weight, loss.dtype)
        told = {"task_loss": loss, "polarisation": term, "polarisation_weight": factor}
        return loss + factor * term.astype(loss.dtype), aux | gate_statistics(jax.lax.stop_gradient(gates)) | told

    return loss_fn


def make_polarised_step(
    gated: GatedLoss,
    optimizer: optax.GradientTransformation,
    weight: optax.Schedule,
    reduce_gradients: Callable[[PyTree], PyTree] = lambda tree: tree,
    *,
    accumulation: int = 1,
) -> Step:
    """`make_step` whose loss has the polarisation of gates in it, with the lambda of the state's own step.

    The step is in the state, so that lambda is what it was after a resumption and after a rollback, and batches stay as they are.

    Args:
      gated: the loss without it.
      weight: completed steps to lambda, `polarisation_weight`.
      optimizer, reduce_gradients, accumulation: as for `make_step`.

    Returns:
      The step. In its metrics, beside those of `polarised`, total_loss is what is descended and loss is without the term:
      the number to compare with runs that have none.
    """

    def step(state: TrainState, batch: PyTree, learning_rate: Any) -> tuple[TrainState, Metrics]:
        loss_fn = polarised(gated, jnp.asarray(weight(state.step)))
        one = make_step(loss_fn, optimizer, reduce_gradients, accumulation=accumulation)
        state, metrics = one(state, batch, learning_rate)
        return state, metrics | {"loss": metrics.pop("task_loss"), "total_loss": metrics["loss"]}

    return step
