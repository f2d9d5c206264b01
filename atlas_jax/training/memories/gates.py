"""Gates of memories in training: their statistics, and a loss that makes them decide.

The gates of a pass come with its features (`atlas.features_and_gates`), so that a loss on them has a gradient and costs no second
pass. All are 0 to 1: how much is forgotten, the momentum, the share of the largest inner rate, the strength in windows.

What a pass says of its gates are moments: means over tokens, which parts of a batch, one after the other or on several devices,
add up to those of the whole. Variances are none, and are derived from them after that, in the step: `with_gate_spread`.

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
    """The moments of the gates of a pass, in the graph: the mean of two parts' is that of both, if they are as large.

    Args:
      gates: of every memory, by kind, any leading axes.

    Returns:
      float32 scalars: gate_{kind}_mean, _square (the mean of squares) and _polarised (the share with |2 g - 1| > 0.8) of every
      kind over layers, memories, heads and tokens; gate_polarised of all gates.
    """
    found: Metrics = {}
    shares = []
    for kind in GATE_BIAS:
        leaves = [memory[kind].astype(jnp.float32).reshape(-1) for memory in gates if kind in memory]
        if not leaves:
            continue
        values = jnp.concatenate(leaves)
        shares.append((jnp.sum(jnp.abs(2.0 * values - 1.0) > POLARISED).astype(jnp.float32), values.size))
        share, mean = shares[-1][0] / values.size, jnp.mean(values)
        # By way of the variance, so that of it no more is lost than rounding of the sum: a mean of squares is off by more.
        named = {"mean": mean, "square": jnp.var(values) + mean**2, "polarised": share}
        found |= {f"gate_{kind}_{name}": value for name, value in named.items()}
    return found | {"gate_polarised": jnp.sum(jnp.stack([n for n, _ in shares])) / sum(size for _, size in shares)}


def gate_spread(metrics: Metrics) -> Metrics:
    """Metrics with what telemetry tells of the spread of gates, in place of their mean squares.

    Args:
      metrics: `gate_statistics` of all parts of a batch among them; those of a model without gates come back as they are.

    Returns:
      With gate_{kind}_std over layers, memories, heads and tokens of the whole batch; gate_variance, the mean over kinds of the
      variance within a kind (that kinds differ from one another says nothing), and gate_std, its root; without _square.
    """
    squares = {kind: metrics[f"gate_{kind}_square"] for kind in GATE_BIAS if f"gate_{kind}_square" in metrics}
    if not squares:
        return metrics
    # Rounding may leave less than none.
    variances = {kind: jnp.maximum(at - metrics[f"gate_{kind}_mean"] ** 2, 0.0) for kind, at in squares.items()}
    variance = jnp.mean(jnp.stack(list(variances.values())))
    kept = {name: value for name, value in metrics.items() if name not in {f"gate_{kind}_square" for kind in squares}}
    spread = {f"gate_{kind}_std": jnp.sqrt(value) for kind, value in variances.items()}
    return kept | spread | {"gate_variance": variance, "gate_std": jnp.sqrt(variance)}


def with_gate_spread(step: Step) -> Step:
    """A step whose metrics have the `gate_spread` of the whole batch, all accumulated parts and devices.

    Args:
      step: from `make_step`, of a loss from `with_gate_statistics` or of a model without gates.
    """

    def one(state: TrainState, batch: PyTree, learning_rate: Any) -> tuple[TrainState, Metrics]:
        state, metrics = step(state, batch, learning_rate)
        return state, gate_spread(metrics)

    return one


def with_gate_statistics(gated: GatedLoss) -> LossFn:
    """The loss as it is, with `gate_statistics` in its aux; `with_gate_spread` makes of them what is told."""

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
        state, metrics = with_gate_spread(one)(state, batch, learning_rate)
        return state, metrics | {"loss": metrics.pop("task_loss"), "total_loss": metrics["loss"]}

    return step
