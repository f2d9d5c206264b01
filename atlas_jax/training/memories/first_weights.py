"""First weights of local memories from data: the mean of what they come to, and how much a reset costs, measured by resetting.

A local memory begins every shard with the same first weights, which are trained. If it works best with weights that it only
reaches after a while, the first tokens of every shard are read worse: the shock of a reset. Calibration runs the memories over
data without any reset and makes the mean of their weights, once they have settled, the first ones.

The shock is by how much the loss of the first chunk after each reset is above that of the same tokens where no reset came before
them, or above that of the last chunk before it, whichever is more.

    python -m atlas_jax.training.memories.first_weights RUN_FOLDER

measures both for the last checkpoint of a run and writes them beside it.

Measured, it is no gain for weights that were trained: a small hierarchy (one layer, shards of 16) after 600 steps on text had a
shock of -.1 % and 2.34 nats a token with its own first weights, .6 % and 2.80 nats with calibrated ones; trained on sequences of
64 without a reset and then given them, .3 % and 2.39, then -.9 % and 2.56. Memories are read worse far beyond the lengths that
they were trained on, where they settle. `Calibration.better` holds what to go on with.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, Int, PyTree
from rich.console import Console

from atlas_jax.distributed.mesh import compilation_cache
from atlas_jax.memory.networks import Weights
from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig, AtlasState
from atlas_jax.training.checkpoint import CheckpointError
from atlas_jax.training.losses import cross_entropy
from atlas_jax.training.runs.run import Run, last_state, reopen
from atlas_jax.training.runs.settings import SettingsError, require_atlas
from atlas_jax.training.runs.text_data import DataError
from atlas_jax.training.whole_file import write_whole

LEAST_TOKENS = 10_000  # that the weights are a mean over
MOST_SHOCK = 0.05
RECORD = "first_weights.json"  # in the folder of the run


class ResetShock(NamedTuple):
    """Losses around resets, nats a token, and what they were measured on.

    Attributes:
      after: of the first chunk after every reset.
      before: of the last chunk before it; other tokens, so that chance is in the comparison.
      without_reset: of the tokens of `after` where no memory is ever reset.
      whole: of all tokens, with resets.
      error: standard error of `against_unbroken`, over resets.
      chunk: tokens of a chunk, the longest of the local memories'.
      resets: sequences times boundaries between shards.
    """

    after: float
    before: float
    without_reset: float
    whole: float
    error: float
    chunk: int
    resets: int

    @property
    def against_unbroken(self) -> float:
        """Relative increase of the loss by resets, over the same tokens. Below 0 where memories were trained with resets."""
        return self.after / self.without_reset - 1

    @property
    def against_before(self) -> float:
        """Relative increase of the loss from the last chunk of a shard to the first of the next."""
        return self.after / self.before - 1

    @property
    def shock(self) -> float:
        """The larger of the two."""
        return max(self.against_unbroken, self.against_before)

    def record(self) -> dict[str, float | int]:
        """All numbers by name, for JSON."""
        relative = {name: getattr(self, name) for name in ("against_unbroken", "against_before", "shock")}
        return {**self._asdict(), **relative}


class Calibration(NamedTuple):
    """The shock of a reset with the first weights as they were and with calibrated ones, and the parameters to go on with.

    Attributes:
      better: parameters, of the two those with the lower loss over all tokens.
      trained: shock with the first weights as they were.
      calibrated: shock with the new ones.
    """

    better: PyTree
    trained: ResetShock
    calibrated: ResetShock

    @property
    def kept(self) -> bool:
        """Whether the first weights in `better` are those that were there."""
        return self.trained.whole <= self.calibrated.whole

    @property
    def passed(self) -> bool:
        """Whether a reset costs less than 5 % with the parameters in `better`."""
        return (self.trained if self.kept else self.calibrated).shock < MOST_SHOCK

    def record(self) -> dict[str, Any]:
        """All but the parameters, for JSON."""
        shocks = {"trained": self.trained.record(), "calibrated": self.calibrated.record()}
        return {**shocks, "kept": self.kept, "most_shock": MOST_SHOCK, "passed": self.passed}


def calibrate(
    config: AtlasConfig,
    params: PyTree,
    calibration: Int[np.ndarray, "b t"],
    held_out: Int[np.ndarray, "n u"],
    *,
    least: int = LEAST_TOKENS,
) -> Calibration:
    """New first weights from one text, their shock and that of the old ones on another.

    Args:
      config, params: of a trained model whose local memories have shards.
      calibration: as for `settled_weights`.
      held_out: as for `reset_shock`.
      least: as for `settled_weights`.

    Raises:
      ValueError: as for those two.
    """
    new = with_first_weights(config, params, settled_weights(config, params, calibration, least=least))
    found = Calibration(new, reset_shock(config, params, held_out), reset_shock(config, new, held_out))
    return found._replace(better=params) if found.kept else found


def settled_weights(
    config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t"], *, least: int = LEAST_TOKENS
) -> tuple[Weights, ...]:
    """Mean weights of every local memory over a text that it reads without reset, its first shard left out.

    Args:
      config, params: of the model.
      tokens: sequences of any length beyond a shard; what is no whole number of chunks at their end is left out.
      least: tokens that the mean is over.

    Returns:
      For every local memory its weights [n, h, i, o], float32.

    Raises:
      ValueError: local memories have no shards, or there are fewer tokens.
    """
    shard, batch = _shard(config), tokens.shape[0]
    piece = math.lcm(*config.chunks)
    skipped, count = shard // piece, tokens.shape[1] // piece
    counted = batch * max(0, count - skipped) * piece
    if counted < least:
        raise ValueError(
            f"settled_weights: the tokens {list(tokens.shape)} leave {counted} after the first shard of {shard}, expected {least}"
        )
    unbroken = _without_resets(config, count * piece)
    pieces = np.moveaxis(tokens[:, : count * piece].reshape(batch, count, piece), 1, 0)
    shares = (np.arange(count) >= skipped) / np.float32(count - skipped)
    return _mean_weights(unbroken, params, jnp.asarray(pieces), jnp.asarray(shares, jnp.float32))


@partial(jax.jit, static_argnums=0)
def _mean_weights(
    config: AtlasConfig, params: PyTree, pieces: Int[Array, "p b t"], shares: Float[Array, " p"]
) -> tuple[Weights, ...]:
    """The sum over pieces of their share times the weights at their end, which are a mean over sequences."""

    def one(carry: tuple[AtlasState, PyTree], piece: tuple[Array, Array]) -> tuple[tuple[AtlasState, PyTree], None]:
        (state, total), (tokens, share) = carry, piece
        _, state = atlas.features(config, params, tokens, state)
        added = jax.tree.map(lambda old, w: old + share * jnp.mean(w, axis=1), total, _local_weights(config, state))
        return (state, added), None

    state = atlas.init_state(config, pieces.shape[1])
    zeros = jax.tree.map(lambda w: jnp.zeros_like(w[:, 0]), _local_weights(config, state))
    return jax.lax.scan(one, (state, zeros), (pieces, shares))[0][1]


def with_first_weights(config: AtlasConfig, params: PyTree, weights: tuple[Weights, ...]) -> PyTree:
    """Parameters whose local memories begin every sequence and shard with these weights.

    Args:
      config, params: of the model.
      weights: of every local memory, as `settled_weights` gives them.
    """
    memory = dict(params["blocks"]["memory"])
    for name, new in zip(local_names(config), weights, strict=True):
        memory[name] = memory[name]._replace(weights=new)
    return {**params, "blocks": {**params["blocks"], "memory": memory}}


def reset_shock(config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t"]) -> ResetShock:
    """Reads a text twice, once with a reset of local memories after every shard and once without any, and compares.

    Args:
      config, params: of the model.
      tokens: sequences of at least two shards and one token; what is no whole shard at their end is left out.

    Raises:
      ValueError: local memories have no shards, or the sequences are too short.
    """
    shard, chunk = _shard(config), max(config.chunks)
    count = (tokens.shape[1] - 1) // shard
    if count < 2:
        raise ValueError(
            f"reset_shock: sequences are {tokens.shape[1]} tokens, expected at least two shards of {shard} and 1: {2 * shard + 1}"
        )
    reset = _losses(config, params, tokens, count)
    unbroken = _losses(config, params, tokens, count, without_resets=True)
    after, same, before = reset[:, 1:, :chunk], unbroken[:, 1:, :chunk], reset[:, :-1, -chunk:]
    difference = (after - (after.mean() / same.mean()) * same).mean(axis=-1)  # of a ratio, by its linear part
    error = difference.std() / np.sqrt(difference.size) / same.mean()
    after, before, same, whole = (float(part.mean()) for part in (after, before, same, reset))
    return ResetShock(after, before, same, whole, float(error), chunk, difference.size)


def _losses(
    config: AtlasConfig, params: PyTree, tokens: np.ndarray, count: int, *, without_resets: bool = False
) -> Float[np.ndarray, "b n s"]:
    """Loss of every token of the first `count` shards, a shard at a time with the state carried, float64."""
    batch, shard = tokens.shape[0], _shard(config)
    parts = (tokens[:, : count * shard], tokens[:, 1 : count * shard + 1])
    inputs, targets = (jnp.asarray(np.moveaxis(part.reshape(batch, count, shard), 1, 0)) for part in parts)
    model = _without_resets(config, count * shard) if without_resets else config
    return np.moveaxis(np.asarray(_shard_losses(model, params, inputs, targets), np.float64), 0, 1)


@partial(jax.jit, static_argnums=0)
def _shard_losses(
    config: AtlasConfig, params: PyTree, inputs: Int[Array, "n b s"], targets: Int[Array, "n b s"]
) -> Float[Array, "n b s"]:
    def one(state: AtlasState, piece: tuple[Array, Array]) -> tuple[AtlasState, Array]:
        x, state = atlas.features(config, params, piece[0], state)
        return state, cross_entropy(x, atlas.head_weights(config, params), piece[1])

    return jax.lax.scan(one, atlas.init_state(config, inputs.shape[1]), (inputs, targets))[1]


def _shard(config: AtlasConfig) -> int:
    if config.shard is None or not config.chunks:
        raise ValueError(
            f"AtlasConfig.shard is {config.shard} and chunks are {config.chunks}, expected local memories with a shard: nothing "
            "is ever reset"
        )
    return config.shard


def _without_resets(config: AtlasConfig, length: int) -> AtlasConfig:
    """The model with shards that no sequence of this length reaches the end of; multiples, so that chunks still fit."""
    shard = _shard(config)
    return replace(config, shard=shard * (length // shard + 1))


def local_names(config: AtlasConfig) -> list[str]:
    """Of the local memories among a layer's parameters: the global one, if there is one, comes first."""
    first = 0 if config.global_chunk is None else 1
    return [f"memory_{first + i}" for i in range(len(config.chunks))]


def _local_weights(config: AtlasConfig, state: AtlasState) -> tuple[Weights, ...]:
    """Of every local memory, now: [n, b, h, i, o]."""
    memories: Any = state.blocks.memory
    return tuple(memory.heads.weights for memory in memories.memories[-len(config.chunks) :])


def calibrate_run(run: Run, *, least: int = LEAST_TOKENS) -> dict[str, Any]:
    """`calibrate` on the last checkpoint of a run, at the chunks of its first stage: from training windows, evenly spread,
    shocks on held-out ones.

    Args:
      run: of an Atlas whose local memories have shards, and windows of at least two.
      least: tokens that the weights are a mean over, and of held-out text, if there are so many.

    Returns:
      `Calibration.record`, the step of the checkpoint and the tokens of both texts, for JSON.

    Raises:
      SettingsError: the model is another, or its windows are too short.
      CheckpointError: there is no checkpoint.
    """
    require_atlas("first_weights", run.settings, run.config)
    state = last_state(run)
    held_out = run.tokens.held_out.spread(-(-least // run.tokens.held_out.length))
    try:
        shard, piece = _shard(run.config), math.lcm(*run.config.chunks)
        beyond = max(1, run.tokens.train.length // piece * piece - shard)  # tokens of a window that count
        windows = run.tokens.train.spread(-(-least // beyond))[:, :-1]
        found = calibrate(run.config, state.params, windows, held_out, least=least)
    except ValueError as error:  # of the model, or of too little text
        raise SettingsError(f"{run.folder}: {error}") from error
    sizes = {"calibration_tokens": windows.size, "held_out_tokens": held_out[:, 1:].size}
    return {"step": int(state.step), **sizes, **found.record()}


def table(record: dict[str, Any]) -> str:
    """What `calibrate_run` found, in lines."""
    lines = [f"{'first weights':<14} {'shock':>8} {'unbroken':>9} {'before':>8} {'error':>7} {'loss':>8}"]
    for name, of in ((name, record[name]) for name in ("trained", "calibrated")):
        shares = f"{of['shock']:>8.2%} {of['against_unbroken']:>9.2%} {of['against_before']:>8.2%} {of['error']:>7.2%}"
        lines.append(f"{name:<14} {shares} {of['whole']:>8.4f}")
    better = "trained" if record["kept"] else "calibrated"
    says = "below" if record["passed"] else "expected below"
    cost = f"{record[better]['shock']:.2%}, {says} {record['most_shock']:.0%}"
    return "\n".join([*lines, f"step {record['step']:,}: {better} ones are better; their reset costs {cost}"])


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""

    def command(folder: Annotated[Path, tyro.conf.Positional]) -> Path:
        """Measures what a reset of local memories costs, with their first weights as trained and as calibrated.

        Exit codes: 0 the better of the two cost less than 5 %, 1 more, 2 bad input, 130 interrupted.

        Args:
          folder: of a run; what is found is written there, as first_weights.json.
        """
        return folder

    folder = tyro.cli(command, prog="python -m atlas_jax.training.memories.first_weights", args=arguments)
    compilation_cache()
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        record = calibrate_run(reopen(folder))
        write_whole(folder / RECORD, json.dumps(record, indent=1) + "\n")
    except KeyboardInterrupt:
        errors.print("\nInterrupted.")
        return 130
    except (SettingsError, DataError, CheckpointError, OSError) as error:
        errors.print(f"error: {error}")
        return 2
    Console(soft_wrap=True, highlight=False, markup=False).print(table(record))
    return 0 if record["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
