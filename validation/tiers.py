"""One tier: all its models trained together as one compiled program, with four decayed checkpoints each.

The learning rate warms up and stays; at 1/8, 1/4, 1/2 and all of the steps a copy branches off and decays to zero over the
last fifth of its length, so that loss is measured at four amounts of data and equal size (warm-up, stable, decay: Hu et al.
2024, arXiv:2404.06395; branches for scaling laws: Hägele et al. 2024, arXiv:2405.18392).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PyTree

from atlas_jax.data import Packed, batch_order
from atlas_jax.distributed.mesh import BATCH, idle_variants, variant_mesh
from atlas_jax.training import Checkpointer, TrainState, adamw, init_state, loop, make_step, wsd
from atlas_jax.training.ensemble import initial_states, make_evaluation, make_segment, mean_over_batch_devices
from spectral import resonance
from spectral.resonance import ResonanceConfig
from validation.profiles import BRANCH_GRAIN, Profile, TierPlan

# Raised whenever training or measuring changes: results of another format are neither compared nor continued.
FORMAT = 10
CHECKPOINTS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # ends of the decayed branches, as shares of all steps
DECAY = 1 / 5  # of a branch
SAVE_EVERY_SECONDS = 5.0
RESTARTS = 6  # down to 1/64 of the rate
LN2 = float(np.log(2))


class Variant(NamedTuple):
    """One model of a tier: which subsample it sees, its seed, its peak learning rate."""

    subsample: int
    seed: int
    learning_rate: float


class HeldOut(NamedTuple):
    """Held-out windows and which of their targets count."""

    windows: Int[np.ndarray, "n t1"]
    measured: Bool[np.ndarray, "n t"]
    tail: Bool[np.ndarray, "e n t"]  # the rarest decile of words, part of `measured`, for every model of a tier
    bytes_per_token: float


@dataclass(frozen=True)
class TierResult:
    """What training e models of one tier gave; losses in bits per token of held-out text.

    Attributes:
      loss, tail_loss: at the decayed checkpoints, c of them.
      accuracy: share of measured targets predicted exactly, at the end.
      curve: training loss at each step of the trunk and of the last decay.
      learning_rate: peak rate that each model ended with; lower than asked for where it was restarted.
      restarts: how often each model was restarted.
      params: parameters of every model, stacked, after the last decay.
      seconds: wall time.
    """

    loss: Float[np.ndarray, "e c"]
    tail_loss: Float[np.ndarray, "e c"]
    accuracy: Float[np.ndarray, " e"]
    curve: Float[np.ndarray, "e s"]
    learning_rate: Float[np.ndarray, " e"]
    restarts: Int[np.ndarray, " e"]
    params: PyTree
    seconds: float


Progress = Callable[[int, int, float], None]  # (steps done, steps in all, training loss in bits)


def model_config(plan: TierPlan, profile: Profile, vocab_size: int) -> ResonanceConfig:
    """The model of a tier."""
    chunk = min(plan.model.chunk, profile.length)
    return replace(plan.model, vocab_size=vocab_size, context=profile.length, chunk=chunk)


def token_losses(
    config: ResonanceConfig, params: PyTree, windows: Int[Array | np.ndarray, "b t1"]
) -> tuple[Float[Array, "b t"], Bool[Array, "b t"]]:
    """Loss in bits of every target, and whether it was the most likely token."""
    logits, _ = resonance.apply(config, params, windows[:, :-1])
    targets = windows[:, 1:]
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - picked) / LN2, jnp.argmax(logits, axis=-1) == targets


class _Program(NamedTuple):
    """The compiled parts of one tier."""

    init: Callable[[np.ndarray], TrainState]
    segment: Callable[..., Any]
    evaluate: Callable[..., Any]
    batch_devices: int
    idle: int  # copies of the last model that train for nothing, so that all devices finish together


def _placement(variants: int, plan: TierPlan) -> tuple[Mesh, int]:
    """The mesh of a tier, and how many models to add that train for nothing."""
    # A CPU's idle cores help with the operations of one model by themselves: 23 ms a step at width 208 on two cores, against
    # 27 ms with the batch split, both updates made twice and the gradients averaged.
    if jax.default_backend() == "cpu":
        return variant_mesh(variants, 1), 0
    devices, part = jax.devices()[: plan.devices], plan.batch // plan.accumulation
    idle = idle_variants(variants, part, len(devices))
    return variant_mesh(variants + idle, part, devices), idle


def _padded(models: list[Any], idle: int) -> list[Any]:
    return models + models[-1:] * idle


def _program(config: ResonanceConfig, variants: int, plan: TierPlan) -> _Program:
    mesh, idle = _placement(variants, plan)
    optimizer = adamw()

    def loss_fn(params: PyTree, window: Array, key: Array) -> tuple[Array, dict[str, Any]]:
        del key  # nothing in the model is random
        return jnp.mean(resonance.token_losses(config, params, window[:, :-1], window[:, 1:])[0]), {}

    def init(key: Array) -> TrainState:
        return init_state(resonance.init(config, key), optimizer, key)

    devices = mesh.shape[BATCH]
    averaged = [mean_over_batch_devices] if devices > 1 else []
    step = make_step(loss_fn, optimizer, *averaged, accumulation=plan.accumulation)
    # A batch that does not fit at once says that several models side by side would fit even less.
    in_turn = True if plan.accumulation > 1 else None
    return _Program(
        lambda seeds: initial_states(init, seeds, mesh),
        make_segment(step, mesh, in_turn=in_turn),
        make_evaluation(partial(token_losses, config), mesh, batch=8, in_turn=in_turn),
        devices,
        idle,
    )


def learning_rates(peaks: Float[np.ndarray, " e"], steps: int, end: int) -> Float[np.ndarray, "e end"]:
    """Rates of all variants in the branch that ends at `end`: shared warm-up and plateau, then its own decay."""
    warmup, decay = max(1, steps // 20), round(end * DECAY)
    shape = wsd(1.0, warmup=warmup, stable=max(0, end - decay - warmup), decay=decay)
    return (peaks[:, None] * np.asarray(shape(np.arange(1, end + 1)))).astype(np.float32)


class _Run(NamedTuple):
    """Everything that one tier's training reads and does not change."""

    program: _Program
    windows: list[np.ndarray]  # of each variant, [n, t + 1]
    order: list[np.ndarray]  # of each variant, [steps, b] into its windows
    peaks: np.ndarray  # [e]
    steps: int
    grain: int  # steps per segment


def _advance(run: _Run, rates: np.ndarray) -> Callable[[int, TrainState], tuple[TrainState, Array]]:
    def advance(index: int, states: TrainState) -> tuple[TrainState, Array]:
        steps = slice(index * run.grain, (index + 1) * run.grain)
        batches = np.stack([own[order[steps]] for own, order in zip(run.windows, run.order, strict=True)])
        return run.program.segment(states, batches, rates[:, steps])

    return advance


class _Found(NamedTuple):
    """Results so far, as JSON: they travel with the checkpoint."""

    losses: list[list[float]]  # per decayed checkpoint, of every model
    tails: list[list[float]]
    curve: list[list[float]]  # per segment of the trunk and the last branch, mean training loss of every model, bits
    segments: int  # done, branches included
    seconds: float


def _evaluate(program: _Program, params: PyTree, held_out: HeldOut) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Held-out loss, tail loss (bits per token) and accuracy of every model that is no idle copy."""
    group = 8 * program.batch_devices
    models, count = held_out.tail.shape[:2]
    padded = np.concatenate([held_out.windows, np.repeat(held_out.windows[:1], -count % group, axis=0)])
    bits, hits = (np.asarray(x)[:models, :count] for x in program.evaluate(params, padded))
    return (
        bits[:, held_out.measured].mean(axis=1, dtype=np.float64),
        np.array([own[tail].mean(dtype=np.float64) for own, tail in zip(bits, held_out.tail, strict=True)]),
        hits[:, held_out.measured].mean(axis=1, dtype=np.float64),
    )


def evaluate_models(
    config: ResonanceConfig, params: PyTree, held_out: HeldOut, plan: TierPlan
) -> tuple[Float[np.ndarray, " e"], Float[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """Held-out loss, tail loss (bits per token) and accuracy of trained models, parameters stacked [e, ...]."""
    program = _program(config, jax.tree.leaves(params)[0].shape[0], plan)
    return _evaluate(program, jax.tree.map(lambda leaf: np.stack(_padded(list(leaf), program.idle)), params), held_out)


def train_tier(
    config: ResonanceConfig,
    variants: list[Variant],
    packed: list[Packed],
    held_out: HeldOut,
    *,
    plan: TierPlan,
    steps: int,
    segment: int,
    directory: Path,
    on_progress: Progress = lambda done, total, loss: None,
    checkpoints: tuple[float, ...] = CHECKPOINTS,
) -> TierResult:
    """Trains all variants of a tier; a diverged one is restarted at half its rate, the others never notice.

    Args:
      config: size of the models.
      variants: e models.
      packed: training windows of each variant.
      held_out: what they are measured on.
      plan: batch, accumulation and devices; its other fields are not read.
      steps: optimizer steps of a model, a multiple of 40 segments.
      segment: steps per call of the compiled program.
      directory: where checkpoints go; an interrupted tier goes on from there with the same final numbers.
      on_progress: called after every segment.
      checkpoints: ends of the decayed branches, as shares of all steps; the last is 1.

    Raises:
      ValueError: a branch would not end on a whole segment.
    """
    if steps < 1 or steps % (BRANCH_GRAIN * segment):
        raise ValueError(
            f"train_tier: steps={steps}, expected a multiple of {BRANCH_GRAIN} segments of {segment} steps"
        )
    train = partial(_train, plan=plan, steps=steps, segment=segment, on_progress=on_progress, checkpoints=checkpoints)
    result = train(config, variants, packed, held_out, directory=directory / "attempt-0")
    for attempt in range(1, RESTARTS + 1):
        # A model that knows less than the uniform distribution over tokens has diverged.
        bad = np.flatnonzero(~(result.loss[:, -1] < np.log2(config.vocab_size) + 0.5))
        if not len(bad):
            break
        slower = [variants[i]._replace(learning_rate=variants[i].learning_rate * 0.5**attempt) for i in bad]
        where, theirs = directory / f"attempt-{attempt}", held_out._replace(tail=held_out.tail[bad])
        again = train(config, slower, [packed[i] for i in bad], theirs, directory=where)
        result = _merge(result, again, bad, attempt)
    return result


def _merge(result: TierResult, again: TierResult, where: Int[np.ndarray, " k"], attempt: int) -> TierResult:
    def put(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        out = np.array(old)
        out[where] = new
        return out

    fields = ("loss", "tail_loss", "accuracy", "curve", "learning_rate")
    merged = {name: put(getattr(result, name), getattr(again, name)) for name in fields}
    return replace(
        result,
        **merged,
        restarts=put(result.restarts, np.full(len(where), attempt)),
        params=jax.tree.map(put, result.params, again.params),
        seconds=result.seconds + again.seconds,
    )


def _prepare(
    config: ResonanceConfig, variants: list[Variant], packed: list[Packed], plan: TierPlan, steps: int, segment: int
) -> _Run:
    program = _program(config, len(variants), plan)
    order = [
        batch_order(count=len(p.tokens), batch=plan.batch, steps=steps, seed=variant.seed)
        for variant, p in zip(variants, packed, strict=True)
    ]
    return _Run(
        program,
        _padded([p.tokens for p in packed], program.idle),
        _padded(order, program.idle),
        np.array(_padded([v.learning_rate for v in variants], program.idle)),
        steps,
        segment,
    )


def _train(
    config: ResonanceConfig,
    variants: list[Variant],
    packed: list[Packed],
    held_out: HeldOut,
    *,
    plan: TierPlan,
    steps: int,
    segment: int,
    directory: Path,
    on_progress: Progress,
    checkpoints: tuple[float, ...],
) -> TierResult:
    run = _prepare(config, variants, packed, plan, steps, segment)
    ends = [round(steps * share) for share in checkpoints]
    total = (ends[-1] + sum(round(end * DECAY) for end in ends[:-1])) // run.grain
    started, found = time.monotonic(), _Found([], [], [], 0, 0.0)
    count = len(variants)
    states, position = run.program.init(np.array(_padded([v.seed for v in variants], run.program.idle))), 0
    with Checkpointer(directory) as checkpointer:
        restored = checkpointer.restore(states)
        if restored is not None:
            states, extra, position = restored
            found = _Found(**extra)
        clock = _Clock(started - found.seconds)

        def segments(states: TrainState, end: int, stop: int, on_trunk: bool) -> TrainState:
            nonlocal found, position
            rates = learning_rates(run.peaks, steps, end)
            for event in loop(
                _advance(run, rates), states, start=position if on_trunk else stop_of_trunk(end), stop=stop
            ):
                states = event.state
                bits = (np.asarray(event.metrics)[:count].mean(axis=1) / LN2).tolist()
                kept = [bits] if on_trunk or end == ends[-1] else []
                found = found._replace(curve=found.curve + kept, segments=found.segments + 1)
                on_progress(found.segments, total, float(np.mean(bits)))
                if on_trunk:
                    position = event.index
                    if clock.due():
                        found = found._replace(seconds=clock.elapsed())
                        checkpointer.save(position, states, found._asdict())
                        clock.saved()
            return states

        def stop_of_trunk(end: int) -> int:
            return (end - round(end * DECAY)) // run.grain

        params, accuracy = states.params, np.zeros(count)
        for end in ends[len(found.losses) :]:
            states = segments(states, end, stop_of_trunk(end), on_trunk=True)
            # The trunk goes on from here, so the branch that decays works on a copy.
            branch = segments(jax.tree.map(jnp.copy, states), end, end // run.grain, on_trunk=False)
            params = branch.params
            loss, tail, accuracy = _evaluate(run.program, params, held_out)
            found = found._replace(losses=[*found.losses, loss.tolist()], tails=[*found.tails, tail.tolist()])
    return TierResult(
        loss=np.array(found.losses).T,
        tail_loss=np.array(found.tails).T,
        accuracy=accuracy,
        curve=np.array(found.curve).T,
        learning_rate=run.peaks[:count],
        restarts=np.zeros(count, np.int64),
        params=jax.tree.map(lambda leaf: np.asarray(leaf)[:count], params),
        seconds=clock.elapsed(),
    )


class _Clock:
    """Wall time of a tier over interruptions, and when the next save is due."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._saved = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    def due(self) -> bool:
        return time.monotonic() - self._saved >= SAVE_EVERY_SECONDS

    def saved(self) -> None:
        self._saved = time.monotonic()


def store_result(directory: Path, result: TierResult) -> None:
    """Keeps a finished tier: parameters through Orbax, the rest as JSON beside them."""
    numbers = {
        name: getattr(result, name).tolist()
        for name in ("loss", "tail_loss", "accuracy", "curve", "learning_rate", "restarts")
    }
    with Checkpointer(directory) as checkpointer:
        checkpointer.save(0, result.params, {**numbers, "seconds": result.seconds})


def load_result(directory: Path, config: ResonanceConfig, variants: int) -> TierResult | None:
    """A tier kept by `store_result`; None when the directory holds none."""
    one = jax.eval_shape(lambda: resonance.init(config, jax.random.key(0)))
    template = jax.tree.map(lambda leaf: np.zeros((variants, *leaf.shape), leaf.dtype), one)
    with Checkpointer(directory) as checkpointer:
        restored = checkpointer.restore(template)
    if restored is None:
        return None
    params, extra, _ = restored
    seconds = extra.pop("seconds")
    params = jax.tree.map(np.asarray, params)  # as `train_tier` gives them
    return TierResult(**{name: np.array(value) for name, value in extra.items()}, params=params, seconds=seconds)
