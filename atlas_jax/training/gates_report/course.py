"""What the files of a run say of it: gates G2-4 and G2-5, and of phase 4 the number of rollbacks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from atlas_jax.models import atlas
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.nn.memory import CONVOLUTION
from atlas_jax.training.gates_report.gate import Gate

Row = dict[str, Any]
FOUND = 0.8  # of needles
MOST_ROLLBACKS = 3
SURE = 2.0  # standard errors by which the model has to be above its control
_NOT_FINITE = re.compile(r"\bis \S*(nan|inf)")  # what a rollback saw, in words


def crashes(events: Sequence[Row]) -> int:
    """How often a run was taken up again that had neither been finished nor interrupted and saved.

    One that was killed before its first checkpoint starts once more, and that counts too.
    """
    told = [row["event"] for row in events if row["event"] in ("start", "resume", "interrupted", "finished")]
    begun = ("start", "resume")
    return sum(now in begun and before in begun for before, now in pairwise(told))


def steps_gate(metrics: Sequence[Row], rollbacks: Sequence[Row], events: Sequence[Row], steps: int) -> Gate:
    """G2-4: the run took all of its steps, with finite figures only and without a crash.

    A rollback takes the lines of the abandoned steps with it, so what it saw counts too.

    Args:
      metrics, rollbacks, events: lines of the run's files.
      steps: that it was to take.
    """
    taken = [row["step"] for row in metrics]
    bad = [row["step"] for row in metrics if row.get("nonfinite")]
    left = [row["fired"] for row in rollbacks if _NOT_FINITE.search(row["seen"])]
    crashed = crashes(events)
    text = (
        f"{len(taken):,} of {steps:,} steps, {len(bad) + len(left)} with figures that are not finite, {crashed} crashes"
    )
    if bad or left:
        text += f" (steps {', '.join(map(str, sorted({*bad, *left})[:8]))})"
    return Gate(
        "G2-4",
        "training without NaN or crash",
        passed=taken == list(range(1, steps + 1)) and not bad and not left and not crashed,
        measured={
            "steps": len(taken),
            "not_finite": bad,
            "not_finite_before_a_rollback": left,
            "rollbacks": len(rollbacks),
            "crashes": crashed,
            "last_loss": metrics[-1]["loss"] if metrics else None,
        },
        expected=f"{steps:,} steps, each once, all figures finite, no restart but after an interruption that was saved",
        text=text,
    )


def reach(config: AtlasConfig) -> int:
    """Tokens before a token that can tell on it by way of anything but a memory, through all layers.

    Args:
      config: of the model.

    Returns:
      layers x (window - 1) of attention and layers x (width - 1) of convolutions, of what its blocks have: an upper bound for
      "gate", where both stand side by side. Segments of "context" are cut at the same places in all layers, and what is in one
      stays in it; it has no convolution.
    """
    if config.block == "context":
        return atlas.memories(config)[0].chunk - 1
    attention = 0 if config.block == "memory" else config.window - 1
    return config.layers * (attention + CONVOLUTION - 1)


def far(lengths: Sequence[int], hay: Sequence[int], depths: Sequence[float], reach: int) -> np.ndarray:
    """[length, depth]: whether a needle lies further before the question than can be read without a memory.

    Args:
      lengths: of texts, tokens.
      hay: tokens of the stream in each.
      depths: of the needle, shares of the hay.
      reach: of attention and convolutions, or of the control if it reads more; tokens.
    """
    # Other needles may lie in between: counting hay alone errs to the near side.
    distance = (1 - np.asarray(depths))[None, :] * np.asarray(hay, np.float64)[:, None]
    return (distance > reach) & (np.asarray(lengths)[:, None] > reach)


def needles_gate(
    row: Row | None, is_far: np.ndarray, *, examples: int, context: int, lengths: Sequence[int], gate: str = "G2-5"
) -> Gate:
    """G2-5: needles are found, and beyond the window by memory.

    Args:
      row: the metrics of the last step, a probe's among them; None: there was none.
      is_far: from `far`.
      examples: texts of each length and depth.
      context: that the model was trained at.
      lengths: of texts.
      gate: its id.
    """
    expected = (
        f"accuracy above {FOUND:.0%} in texts no longer than the {context:,} tokens trained on, and beyond the window more than "
        f"the control by {SURE:g} standard errors"
    )
    about = partial(Gate, gate, "needles", expected=expected)
    if row is None or "niah_map" not in row:
        return about(passed=False, measured={}, text="the last step has no probe")
    right, control = (_shares(row[name]) for name in ("niah_map", "niah_control_map"))
    accuracy, of_control = float(right.mean()), float(control.mean())
    measured = {
        "step": row["step"],
        "accuracy": accuracy,
        "control": of_control,
        "map": right.tolist(),
        "control_map": control.tolist(),
        "lengths": list(lengths),
        "context": context,
        "far_cells": int(is_far.sum()),
        "memory": {name: value for name, value in row.items() if name.startswith("niah_memory_")},
    }
    text = f"{accuracy:.1%} found, control {of_control:.1%}"
    beyond = False
    if is_far.any():
        memory, without = float(right[is_far].mean()), float(control[is_far].mean())
        count = examples * int(is_far.sum())
        error = math.sqrt((memory * (1 - memory) + without * (1 - without)) / count)
        beyond = memory > without + SURE * error
        measured |= {"far_accuracy": memory, "far_control": without, "far_error": error}
        text += f"; beyond the window {memory:.1%}, control {without:.1%}"
    else:
        text += "; no needle lies beyond the window"
    cosine = row.get("niah_memory_cosine")
    text += "; no memory holds 100 pairs" if cosine is None else f"; cosine in memory {cosine:.3f}"
    inside = max(lengths) <= context
    return about(passed=bool(accuracy > FOUND and beyond and inside), measured=measured, text=text)


def _shares(found: Any) -> np.ndarray:
    """What was not finite was written as null: a share of no answers is none."""
    return np.nan_to_num(np.asarray(found, np.float64))


def rollbacks_gate(rollbacks: Sequence[Row], taken: int, steps: int) -> Gate:
    """G4-1: the run went back at most three times, and came to its end.

    Args:
      rollbacks: lines of the run's file.
      taken: steps that it took.
      steps: that it was to take.
    """
    return Gate(
        "G4-1",
        "rollbacks",
        passed=len(rollbacks) <= MOST_ROLLBACKS and taken == steps,
        measured={"rollbacks": list(rollbacks), "steps": taken},
        expected=f"at most {MOST_ROLLBACKS} in {steps:,} steps, all taken",
        text=f"{len(rollbacks)} in {taken:,} of {steps:,} steps",
    )
