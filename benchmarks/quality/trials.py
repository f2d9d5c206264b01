"""Registered models trained side by side on the same examples with the same trainer, and what they then know."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from atlas_jax.data import batch_order
from atlas_jax.distributed.mesh import BATCH, variant_mesh
from atlas_jax.models import RegisteredModel, registered
from atlas_jax.training import TrainState, adamw, cosine, init_state, make_step
from atlas_jax.training.ensemble import initial_states, make_evaluation, make_segment, mean_over_batch_devices

PEER = "transformer"
SEGMENT = 32  # steps per call of the compiled program
MEASURED = 8  # examples per call of the evaluation
WARMUP = 1 / 20  # of all steps
LN2 = float(np.log(2))


class Contestant(NamedTuple):
    """One model at one size."""

    name: str
    preset: str
    model: RegisteredModel
    config: Any
    parameters: int


class Trained(NamedTuple):
    """e models after their last step."""

    params: PyTree  # stacked [e, ...]
    curve: Float[np.ndarray, "e s"]  # training loss of every step, bits per counted target
    seconds: float  # wall time, compilation included


def contestants(names: Sequence[str], presets: Sequence[str], *, vocab_size: int, length: int) -> list[Contestant]:
    """The models at the sizes asked for, set up for a vocabulary and a length; the peer first in every size.

    Raises:
      ValueError: a model or preset does not exist; the message lists those there are.
    """
    models, found = registered(), []
    for preset in presets:
        for name in sorted(names, key=lambda name: name != PEER):
            if name not in models:
                raise ValueError(f"model is {name!r}, expected one of {', '.join(models)}")
            if preset not in models[name].PRESETS:
                raise ValueError(f"preset of {name} is {preset!r}, expected one of {', '.join(models[name].PRESETS)}")
            config: Any = models[name].PRESETS[preset]
            sizes = {
                "vocab_size": vocab_size,
                "context": length,
                "chunk": min(getattr(config, "chunk", length), length),
            }
            config = dataclasses.replace(config, **{key: sizes[key] for key in sizes if hasattr(config, key)})
            shapes = jax.eval_shape(partial(models[name].init, config), jax.random.key(0))
            parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
            found.append(Contestant(name, preset, models[name], config, parameters))
    return found


def target_losses(
    contestant: Contestant, params: PyTree, examples: Int[Array, "b 2 t"]
) -> tuple[Float[Array, "b t"], Bool[Array, "b t"]]:
    """Loss in bits of every target (0 where it does not count), and whether it was the most likely token."""
    logits, _ = contestant.model.apply(contestant.config, params, examples[:, 0])
    targets, counts = jnp.maximum(examples[:, 1], 0), examples[:, 1] >= 0
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    bits = (jax.nn.logsumexp(logits, axis=-1) - picked) / LN2
    return jnp.where(counts, bits, 0.0), counts & (jnp.argmax(logits, axis=-1) == targets)


def train(
    contestant: Contestant,
    examples: Int[np.ndarray, "n 2 t"],
    *,
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
    batch: int,
) -> Trained:
    """Trains one model per (seed, rate) as one compiled program: AdamW, warm-up, then a cosine down to zero.

    Args:
      contestant: what to train.
      examples: inputs and targets; all models of a seed see the same batches in the same order.
      seeds: of the parameters and of the order, e of them.
      rates: peak learning rates, as many.
      steps: optimizer steps.
      batch: examples per step.
    """
    started = time.monotonic()
    mesh = variant_mesh(len(seeds), 1 if jax.default_backend() == "cpu" else batch)  # as the tiers do
    optimizer = adamw()

    def loss_fn(params: PyTree, examples: Array, key: Array) -> tuple[Array, dict[str, Any]]:
        del key  # nothing in the models is random
        bits, _ = target_losses(contestant, params, examples)
        return jnp.sum(bits) * LN2 / jnp.sum(examples[:, 1] >= 0).astype(bits.dtype), {}

    def init(key: Array) -> TrainState:
        return init_state(contestant.model.init(contestant.config, key), optimizer, key)

    reduce_gradients = [mean_over_batch_devices] if mesh.shape[BATCH] > 1 else []
    segment = make_segment(make_step(loss_fn, optimizer, *reduce_gradients), mesh)
    states = initial_states(init, np.array(seeds), mesh)
    shape = np.asarray(cosine(1.0, warmup=max(1, round(steps * WARMUP)), steps=steps)(np.arange(1, steps + 1)))
    schedule = (np.array(rates)[:, None] * shape).astype(np.float32)
    order = np.stack([batch_order(count=len(examples), batch=batch, steps=steps, seed=seed) for seed in seeds])
    curve = []
    for start in range(0, steps, SEGMENT):
        now = slice(start, min(start + SEGMENT, steps))
        states, losses = segment(states, examples[order[:, now]], schedule[:, now])
        curve.append(np.asarray(losses) / LN2)
    return Trained(states.params, np.concatenate(curve, axis=1), time.monotonic() - started)


def measure(
    contestant: Contestant, params: PyTree, examples: Int[np.ndarray, "n 2 t"]
) -> tuple[Float[np.ndarray, "e n t"], Bool[np.ndarray, "e n t"]]:
    """`target_losses` of trained models, params stacked [e, ...], on every example."""
    variants = jax.tree.leaves(params)[0].shape[0]
    mesh = variant_mesh(variants, 1 if jax.default_backend() == "cpu" else MEASURED)

    def group(params: PyTree, rows: Int[Array, "b t2"]) -> tuple[Array, Array]:
        return target_losses(contestant, params, rows.reshape(len(rows), 2, -1))

    evaluate = make_evaluation(group, mesh, batch=MEASURED)
    missing = -len(examples) % (MEASURED * mesh.shape[BATCH])
    padded = np.concatenate([examples, np.repeat(examples[:1], missing, axis=0)])
    bits, hits = evaluate(params, padded.reshape(len(padded), -1))
    return np.asarray(bits)[:, : len(examples)], np.asarray(hits)[:, : len(examples)]


def parameters_agree(found: Iterable[Contestant], tolerance: float) -> None:
    """Refuses models of one size that are not of one size.

    Raises:
      ValueError: one has more than that share of parameters more or less than the first of its preset.
    """
    first: dict[str, Contestant] = {}
    for one in found:
        other = first.setdefault(one.preset, one)
        if abs(one.parameters / other.parameters - 1) > tolerance:
            raise ValueError(
                f"{one.name} {one.preset} has {one.parameters:,} parameters, expected those of {other.name}, "
                f"{other.parameters:,}, within {tolerance:.0%}"
            )
