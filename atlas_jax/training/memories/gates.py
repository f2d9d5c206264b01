"""Gates of memories in training: their statistics, a loss that makes them decide, and a watch that ends a run in which they died.

The gates of a pass come with its features (`atlas.features_and_gates`), so that a loss on them has a gradient and costs no second
pass. All are 0 to 1: how much is forgotten, the momentum, the share of the largest inner rate, the strength in windows.

Polarisation, lambda(step) * mean(1 - |2 g - 1|), pushes every gate to 0 or 1: gates that stay near their start teach every token
alike. It is an option: off unless a step is made with it, and the loss without it is reported beside it. It says nothing about
differences between tokens: gates that are all at the same end have no loss and do not work, which is what `watch_gates` sees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn.memory import GATE_BIAS, GateValues
from atlas_jax.training.losses import cross_entropy
from atlas_jax.training.state import TrainState
from atlas_jax.training.step import LossFn, Metrics, Step, make_step

_log = logging.getLogger(__name__)

GatedLoss = Callable[
    [PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], dict[str, Any], Sequence[GateValues]]
]  # (params, batch, key) to (loss, aux, gates): a `LossFn` that hands out the gates of its pass

POLARISED = 0.8  # |2 g - 1| beyond which a gate has decided: below 0.1 or above 0.9


class GateCollapseError(RuntimeError):
    """The gates of a run have died: they are the same for all tokens, or never began to differ."""


def next_token_loss(config: AtlasConfig) -> GatedLoss:
    """Mean cross-entropy in nats of the batches of `data.Batches`, and the gates of the same pass.

    Args:
      config: of the model.

    Returns:
      `(params, {"tokens": int32 [b, t + 1], "rows": int32 [b, t + 1]}, key) -> (loss, {}, gates)`; rows of -1 are padding.
    """

    def loss_fn(params: PyTree, batch: PyTree, key: Array) -> tuple[Array, dict[str, Any], Sequence[GateValues]]:
        del key  # nothing in the model is random
        tokens, counted = jnp.asarray(batch["tokens"]), jnp.asarray(batch["rows"][:, 1:]) >= 0
        x, _, gates = atlas.features_and_gates(config, params, tokens[:, :-1])
        losses = cross_entropy(x, atlas.head_weights(config, params), tokens[:, 1:])
        return jnp.sum(losses * counted.astype(losses.dtype)) / jnp.sum(counted).astype(losses.dtype), {}, gates

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


@dataclass(frozen=True)
class GateLimits:
    """What is asked of gates, and when, in completed steps.

    Attributes:
      first: where the variance is recorded, and gates should have been polarised.
      second: where the variance is compared with it.
      last: where some gates should still be polarised.
      growth: least gate_variance at `second`, in that of `first`.
      spread: gate_std at `first` from which growth is not asked: it asks whether gates leave their start, and these have. Healthy
        small runs went from .02 at step 1 to .16 at 100 and .12 at 300 on text, to .30 and .35 (500) with polarisation.
      least_std: of gate_std, at every step from `first` on.
      polarised_first, polarised_last: least gate_polarised at those steps; below it is reported and ends no run.

    Raises:
      ValueError: the steps are not in order.
    """

    first: int = 100
    second: int = 500
    last: int = 1000
    growth: float = 1.5
    spread: float = 0.1
    least_std: float = 0.01
    polarised_first: float = 0.8
    polarised_last: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.first < self.second < self.last:
            raise ValueError(
                f"GateLimits: steps {self.first}, {self.second}, {self.last}, expected each above the last"
            )


class GateWatch(NamedTuple):
    """What a watch remembers; numbers that JSON knows, for a checkpoint's `extra`."""

    step: int = 0  # completed steps when it last looked
    variance: float | None = None  # gate_variance at `GateLimits.first`


class GateFinding(NamedTuple):
    """What was found of gates at a step.

    Attributes:
      step: completed steps.
      passed: what was asked.
      fatal: not passed, and the run is not worth going on with.
      text: the number and what was expected.
    """

    step: int
    passed: bool
    fatal: bool
    text: str


def watch_gates(
    limits: GateLimits, watch: GateWatch, step: int, metrics: Mapping[str, Any]
) -> tuple[GateWatch, list[GateFinding]]:
    """Looks at the gates after a step; call it with every step that is read, in order, and after a rollback go on.

    Args:
      limits: what is asked.
      watch: what was seen before; `GateWatch()` at the start.
      step: completed steps. What was due since the last look is looked at now.
      metrics: of the step, `gate_statistics` among them; on the host.

    Returns:
      What has been seen now, and what was found: nothing at most steps.
    """
    variance, std, share = (float(metrics[f"gate_{name}"]) for name in ("variance", "std", "polarised"))
    found: list[GateFinding] = []

    def due(at: int) -> bool:
        return watch.step < at <= step

    if step >= limits.first and not std >= limits.least_std:  # NaN is no variation either
        text = f"gates vary by {std:.4f} (standard deviation), expected at least {limits.least_std}"
        found.append(GateFinding(step, False, True, text))
    first = variance if due(limits.first) else watch.variance
    if due(limits.second):
        found.append(_growth(limits, step, variance, first))
    for at, least in ((limits.first, limits.polarised_first), (limits.last, limits.polarised_last)):
        if due(at):
            text = f"{share:.0%} of gates are polarised, expected at least {least:.0%}"
            found.append(GateFinding(step, share >= least, False, text))
    return GateWatch(step, first), found


def _growth(limits: GateLimits, step: int, variance: float, first: float | None) -> GateFinding:
    now = f"gate variance is {variance:.5f}"
    if first is None:
        return GateFinding(
            step, False, False, f"{now}, and that of step {limits.first} is not known: the watch began later"
        )
    against = f"{now}, expected at least {limits.growth} times the {first:.5f} of step {limits.first}"
    if first >= limits.spread**2:
        return GateFinding(step, True, False, f"{against} only where gates vary by less than {limits.spread} there")
    grown = variance >= limits.growth * first
    return GateFinding(step, grown, not grown, against)


def report_gates(findings: Sequence[GateFinding]) -> None:
    """Logs what was found, and ends a run whose gates have died.

    Raises:
      GateCollapseError: a finding is fatal; all such findings are in the message.
    """
    for finding in findings:
        _log.log(logging.INFO if finding.passed else logging.WARNING, "step %d: %s", finding.step, finding.text)
    fatal = [f"step {finding.step}: {finding.text}" for finding in findings if finding.fatal]
    if fatal:
        raise GateCollapseError(
            "; ".join(fatal)
            + "; the gates have collapsed: train with another seed or rate, with polarisation of gates if it was "
            "off, or without this watch"
        )
