"""What phase 4 asks of a model that was trained in two stages: any chunk, and token by token without resets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, PyTree

from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training.gates_report.gate import Gate
from atlas_jax.training.gates_report.once import once
from atlas_jax.training.runs.execution import Measurement
from atlas_jax.training.runs.run import Run
from atlas_jax.training.runs.stages import Stage

SIZES = (1, 2, 4, 8, 16, 32, 64)
MOST_SPREAD = 0.1
LOGIT_ERROR = 1e-3  # of the largest logit: rounding of float32 in another order


def perplexities(run: Run, params: PyTree) -> dict[int, float | None]:
    """Held-out perplexity with all local chunks of one size; None where the shard is no multiple of it.

    Args:
      run: of the model.
      params: trained.
    """
    found: dict[int, float | None] = {}
    for size in SIZES:
        try:
            config = replace(run.config, chunks=(size,) * len(run.config.chunks))
        except ValueError:
            found[size] = None
            continue
        measure = Measurement(run._replace(config=config, stages=(Stage(1, 0, 1, (config,)),)))
        found[size] = measure(params, 1)["perplexity"]
    return found


def chunk_sizes_gate(found: Mapping[int, float | None]) -> Gate:
    """G4-2: after stage two the held-out perplexity is much the same for all chunks.

    Args:
      found: perplexity by chunk, from `perplexities`; None: the model cannot have it.
    """
    about = partial(
        Gate,
        "G4-2",
        "perplexity over chunks",
        measured={str(size): perplexity for size, perplexity in found.items()},
        expected=f"less than {MOST_SPREAD:.0%} between the chunks {', '.join(map(str, found))}",
    )
    missing = [size for size, perplexity in found.items() if perplexity is None]
    known = {size: perplexity for size, perplexity in found.items() if perplexity is not None}
    if missing:
        told = ", ".join(map(str, missing))
        return about(
            passed=False, text=f"the shard is no multiple of {told}; choose --config shard={max(SIZES)} or twice that"
        )
    if not np.isfinite(list(known.values())).all():
        return about(
            passed=False, text=f"not finite for {', '.join(str(n) for n, p in known.items() if not np.isfinite(p))}"
        )
    least, most = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    spread = known[most] / known[least] - 1
    return about(
        passed=bool(spread < MOST_SPREAD),
        text=f"{known[least]:.3f} (chunk {least}) to {known[most]:.3f} (chunk {most}): {spread:.1%}",
    )


class Decoded(NamedTuple):
    """A text read token by token, against the same read at once.

    Attributes:
      tokens: of the text.
      shard: after which memories were reset in training.
      error: largest difference of logits, in the largest of them.
      ages: fewest and most tokens since a local memory began, at the end.
      programs: compiled for the step.
      loss, loss_with_resets: of the tokens beyond the first shard, nats, read as decoded and with resets as in training.
    """

    tokens: int
    shard: int
    error: float
    ages: tuple[int, int]
    programs: int
    loss: float
    loss_with_resets: float


def decode(config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t"]) -> Decoded:
    """Reads a text of more than a shard with chunks of 1 and no reset, by `atlas.step` and at once.

    Args:
      config, params: of a model with local memories and shards; activations are float32 here.
      tokens: more than a shard, at most a context.
    """
    length, shard = tokens.shape[1], config.shard or 0
    finest = replace(config, chunks=(1,) * len(config.chunks), dtype="float32")
    # A multiple, so that the global memory's chunk still divides it.
    unbroken = replace(finest, shard=shard * (length // shard + 1))
    whole, resetting = (
        np.asarray(once(lambda params, tokens, c=c: atlas.apply(c, params, tokens)[0])(params, tokens))
        for c in (unbroken, finest)
    )
    step = once(partial(atlas.step, unbroken))
    state, found = jax.device_put(atlas.init_state(unbroken, len(tokens)), jax.devices()[0]), []
    for token in tokens.T:
        logits, state = step(params, jnp.asarray(token), state)
        found.append(np.asarray(logits))
    blocks: Any = state.blocks
    ages = [np.asarray(memory.age) for memory in blocks.memory.memories[-len(config.chunks) :]]
    return Decoded(
        tokens=length,
        shard=shard,
        error=float(np.abs(np.stack(found, axis=1) - whole).max() / np.abs(whole).max()),
        ages=(int(min(age.min() for age in ages)), int(max(age.max() for age in ages))),
        programs=step._cache_size(),
        loss=_loss(whole, tokens, shard),
        loss_with_resets=_loss(resetting, tokens, shard),
    )


def _loss(logits: np.ndarray, tokens: np.ndarray, first: int) -> float:
    """Mean over the tokens after the first ones."""
    scores = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)))
    picked = np.take_along_axis(scores[:, first:-1], tokens[:, first + 1 :, None], axis=-1)
    return -float(picked.mean())


_of_decoding = partial(
    Gate,
    "G4-4",
    "decoding token by token",
    expected=f"chunk 1, over more than a shard: logits to {LOGIT_ERROR:g} as at once, no reset, one program",
)


def decoding_gate(config: AtlasConfig, params: PyTree, tokens: Int[np.ndarray, "b t"]) -> Gate:
    """G4-4: token by token the model says what it says at once, resets nothing and compiles once.

    Args:
      config, params: of the trained model.
      tokens: real text; of each sequence one context.
    """
    shard = config.shard
    if shard is None or not config.chunks or shard + 2 > tokens.shape[1]:
        told = f"local chunks are {config.chunks}, their shard {shard} and the text {tokens.shape[1]} tokens"
        return _of_decoding(passed=False, measured={}, text=f"{told}: no reset is left out; choose --preset micro-tnt")
    return decoded_gate(decode(config, params, tokens[:, : shard + max(2, shard // 2)]))


def decoded_gate(found: Decoded) -> Gate:
    """The same of what was found."""
    unbroken = found.ages == (found.tokens, found.tokens) and found.tokens > found.shard
    return _of_decoding(
        passed=bool(found.error <= LOGIT_ERROR and unbroken and found.programs == 1),
        measured=found._asdict(),
        text=(
            f"{found.tokens} tokens, shard {found.shard}: logits off by {found.error:.2g}, local memories "
            f"{'never' if unbroken else 'were'} reset, {found.programs} programs; loss beyond the shard {found.loss:.3f}, with "
            f"resets {found.loss_with_resets:.3f}"
        ),
    )
