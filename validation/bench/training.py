"""Small language models trained side by side on windows of tokens: those that label cases and those that write generations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from atlas_jax.data import batch_order
from atlas_jax.distributed.mesh import BATCH, variant_mesh
from atlas_jax.training import TrainState, adamw, cosine, init_state, make_step
from atlas_jax.training.ensemble import initial_states, make_evaluation, make_segment, mean_over_batch_devices
from atlas_jax.types import SequenceModel

BATCH_WINDOWS = 4  # per step
LENGTH = 128  # predicted tokens of a window
TOKENS_A_STEP = BATCH_WINDOWS * LENGTH
SEGMENT = 20  # steps per call of the compiled program
MEASURED = 8  # windows per call of the evaluation
WARMUP = 1 / 20  # of all steps
LN2 = float(np.log(2))


class Trainee(NamedTuple):
    """What is trained: hashable, so that a program is compiled once for each."""

    model: SequenceModel
    config: Any
    rate: float  # peak learning rate


class _Program(NamedTuple):
    init: Any
    segment: Any
    evaluate: Any
    batch_devices: int


def _token_losses(trainee: Trainee, params: PyTree, windows: Int[Array, "b t1"]) -> Float[Array, "b t"]:
    """Loss of every target in bits."""
    logits, _ = trainee.model.apply(trainee.config, params, windows[:, :-1])
    picked = jnp.take_along_axis(logits, windows[:, 1:, None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - picked) / LN2


@cache
def _program(trainee: Trainee, models: int) -> _Program:
    # A CPU's cores share the operations of one model: see `validation.tiers`.
    mesh = variant_mesh(models, 1 if jax.default_backend() == "cpu" else BATCH_WINDOWS)
    optimizer = adamw()

    def loss_fn(params: PyTree, windows: Array, key: Array) -> tuple[Array, dict[str, Any]]:
        del key  # nothing in the models is random
        return jnp.mean(_token_losses(trainee, params, windows)) * LN2, {}

    def init(key: Array) -> TrainState:
        return init_state(trainee.model.init(trainee.config, key), optimizer, key)

    averaged = [mean_over_batch_devices] if mesh.shape[BATCH] > 1 else []
    return _Program(
        lambda seeds: initial_states(init, seeds, mesh),
        make_segment(make_step(loss_fn, optimizer, *averaged), mesh),
        make_evaluation(lambda params, windows: _token_losses(trainee, params, windows), mesh, batch=MEASURED),
        mesh.shape[BATCH],
    )


def train(trainee: Trainee, windows: Sequence[Int[np.ndarray, "_ t1"]], seeds: Sequence[int], *, steps: int) -> PyTree:
    """Trains one model a seed as one compiled program: AdamW, warm-up, then a cosine down to zero.

    Args:
      trainee: model, configuration and peak learning rate.
      windows: what each model reads, in an order of its own that its seed decides; as often as the steps need.
      seeds: of the parameters and the order, e of them.
      steps: optimizer steps of 4 windows of 128 tokens, a multiple of 20.

    Returns:
      Trained parameters, stacked [e, ...].

    Raises:
      ValueError: steps are no positive multiple of 20.
    """
    if steps < 1 or steps % SEGMENT:
        raise ValueError(f"train: steps={steps}, expected a positive multiple of {SEGMENT}")
    program = _program(trainee, len(seeds))
    states = program.init(np.array(seeds))
    shape = np.asarray(cosine(1.0, warmup=max(1, round(steps * WARMUP)), steps=steps)(np.arange(1, steps + 1)))
    rates = np.broadcast_to((trainee.rate * shape).astype(np.float32), (len(seeds), steps))
    order = [
        batch_order(count=len(own), batch=BATCH_WINDOWS, steps=steps, seed=seed)
        for own, seed in zip(windows, seeds, strict=True)
    ]
    for start in range(0, steps, SEGMENT):
        now = slice(start, start + SEGMENT)
        batches = np.stack([own[chosen[now]] for own, chosen in zip(windows, order, strict=True)])
        states, _ = program.segment(states, batches, rates[:, now])
    return states.params


def measure(trainee: Trainee, params: PyTree, windows: Int[np.ndarray, "n t1"]) -> Float[np.ndarray, "e n t"]:
    """Loss of every target in bits under trained models, parameters stacked [e, ...]."""
    program = _program(trainee, jax.tree.leaves(params)[0].shape[0])
    missing = -len(windows) % (MEASURED * program.batch_devices)
    padded = np.concatenate([windows, np.repeat(windows[:1], missing, axis=0)])
    return np.asarray(program.evaluate(params, padded))[:, : len(windows)]
