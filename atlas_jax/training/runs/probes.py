"""Needles looked for while a run trains: with which probe, how often, and the map of what was found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from atlas_jax.training.needles.interval import ProbeInterval, measure_interval, read_interval, write_interval
from atlas_jax.training.needles.probe import Metrics, Probe, make_probe
from atlas_jax.training.needles.texts import NeedleError, NeedleTask
from atlas_jax.training.runs.execution import MakeRunStep, step_of
from atlas_jax.training.runs.programs import fresh_state, make_update, mean_over_data
from atlas_jax.training.runs.run import CONFIG, METRICS, Run
from atlas_jax.training.runs.windows import alphabet_of

DECISION, MAP = "probe_interval.json", "needles.png"
EXAMPLES = 8  # of each length and depth
REPEATS = 5  # of a step and of a probe
MOST_STREAM = 1 << 20  # held-out tokens that texts are made of


class Probing(NamedTuple):
    """How a run looks for needles: what `NeedleHook` begins with.

    Attributes:
      interval: steps between two probes.
      probe: of the run's model.
    """

    interval: int
    probe: Probe


def probing_of(
    run: Run, every: int | None, say: Callable[[str], None], *, make_run_step: MakeRunStep | None = None
) -> Probing | None:
    """The probe of a run and its interval, in the folder's decision; None, once that is said, where there can be no probe.

    Args:
      run: from `resolve`.
      every: steps between two probes; None: as measured when the run began, less than a hundredth of the time.
      say: is told in a line what was measured, or why there is no probe.
      make_run_step: as for `execute`, whose steps are the ones to measure.

    Raises:
      IntervalError: the file of the decision holds something else.
    """
    try:
        probe = probe_of(run)
    except NeedleError as error:
        say(f"no needles are looked for: {error}")
        return None
    if every is not None:
        return Probing(every, probe)
    path = run.folder / DECISION
    if path.exists():
        return Probing(read_interval(path).interval, probe)
    decision = _measured(run, probe, make_run_step or step_of(run.settings))
    write_interval(decision, path)
    say(f"needles: {decision.verdict}")
    return Probing(decision.interval, probe)


def task_of(context: int) -> NeedleTask:
    """What is hidden for a model of that context: in texts of a quarter, half, all and twice of it, where a needle fits in.

    Twice, as every model carries a state: what it still knows of the first half there, that has kept.
    """
    shortest = NeedleTask().shortest
    lengths = sorted({max(shortest, length) for length in (context // 4, context // 2, context, 2 * context)})
    return NeedleTask(lengths=tuple(lengths), examples=EXAMPLES)


def probe_of(run: Run) -> Probe:
    """Of the run's model on its held-out text, on the first of its devices; takes parameters as steps return them.

    Raises:
      NeedleError: the text or the context is too short for it, or has too few different tokens.
    """
    stream = run.tokens.held_out.longest(MOST_STREAM)
    known = alphabet_of(run.tokens.train)
    probe = make_probe(run.model, run.config, stream, known, task_of(run.config.context), run.settings.seed)

    def on_first(params: PyTree) -> Metrics:
        return probe(jax.tree.map(lambda leaf: leaf.addressable_data(0), params))  # all devices have the same

    return on_first


def _measured(run: Run, probe: Probe, make_run_step: MakeRunStep) -> ProbeInterval:
    """Times steps of a state that is then thrown away, and probes of it: the run's own begins as if there had been none."""
    state = fresh_state(run.model, run.config, run.optimizer, run.settings.seed, run.mesh)
    step = make_run_step(run.model, run.config, run.optimizer, mean_over_data, run.settings.accumulation)
    update, batch = make_update(step, run.schedule, run.mesh), run.batches.at(0)

    def one_step() -> Metrics:
        nonlocal state
        state, metrics = update(state, batch, np.float32(1))
        return metrics

    return measure_interval(one_step, lambda: probe(state.params), repeats=REPEATS)


def draw_needles(folder: Path) -> Path | None:
    """Draws the last map of needles of the run in a folder, as `needles.png` beside its files; None where there is none.

    Args:
      folder: of `run.execute`.
    """
    from atlas_jax.training.needles.heat_map import draw_needle_map

    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
    last = next((line for line in reversed(lines) if '"niah_map"' in line and line.endswith("\n")), None)
    if last is None:
        return None
    row, context = json.loads(last), json.loads((folder / CONFIG).read_text(encoding="utf-8"))["config"]["context"]
    task, path = task_of(context), folder / MAP
    right, control = (np.asarray(row[name], np.float64) for name in ("niah_map", "niah_control_map"))
    draw_needle_map(path, right, control, lengths=task.lengths, depths=task.depths, trained=context)
    return path
