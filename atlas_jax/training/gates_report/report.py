"""The gates of a phase, one after the other, and the files that say what became of them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from atlas_jax.data import ByteTokenizer
from atlas_jax.models.atlas import AtlasConfig
from atlas_jax.training.gates_report import cost, course, decoding, rehearsal, resets
from atlas_jax.training.gates_report.gate import Gate, summary
from atlas_jax.training.gates_report.settings import Defaults, Options, in_two_stages, run_settings, with_chunks
from atlas_jax.training.gates_report.training import Trained, train
from atlas_jax.training.machine import machine
from atlas_jax.training.memories.chunk_sets import (
    Decision,
    decide,
    locked_chunks,
    read_decision,
    write_decision,
)
from atlas_jax.training.memories.training_speed import TrainingSpeed
from atlas_jax.training.runs.probes import task_of
from atlas_jax.training.runs.progress import Display, duration
from atlas_jax.training.runs.run import Run, resolve
from atlas_jax.training.runs.settings import Settings, check, configured, preset_of
from atlas_jax.training.whole_file import write_whole

CHUNKS, RUN, REHEARSAL, EVIDENCE = "chunk_sets.json", "run", "rehearsal", "rollback.json"
JSON, PAGE = "gates.json", "gates.html"


class Report(NamedTuple):
    """All that a page shows.

    Attributes:
      phase: of the plan.
      gates: in the order of their ids.
      trained: the run.
      decision: on chunk sets; None in phase 4.
      rehearsed: a rollback; None in phase 4, and where the run ended early.
      seconds: that this call took.
    """

    phase: int
    gates: list[Gate]
    trained: Trained
    decision: Decision | None
    rehearsed: rehearsal.Rehearsed | None
    seconds: float


class Screen(NamedTuple):
    """Where progress goes, and who may stop it.

    Attributes:
      display: makes a display for so many steps, entered and left by the caller.
      say: a line that stays.
      interrupted: whether it is to stop.
    """

    display: Callable[[int], Display]
    say: Callable[[str], None]
    interrupted: Callable[[], bool]

    def at(self, number: int, of: int, what: str) -> None:
        """Says what begins, or stops before it.

        Raises:
          KeyboardInterrupt: it is to stop.
        """
        if self.interrupted():
            raise KeyboardInterrupt
        self.say(f"[{number}/{of}] {what}")


def phase_two(options: Options, out: Path, screen: Screen, defaults: Defaults) -> Report:
    """The gates G2-1 to G2-7.

    Args:
      options: as given.
      out: folder of the report.
      screen: for progress.
      defaults: of what is not given.

    Raises:
      KeyboardInterrupt: the screen was interrupted; the next call goes on.
    """
    began, settings = time.monotonic(), run_settings(options, defaults)
    check(settings)
    screen.at(1, 5, "chunk sets: four models are timed, a minute or two each on a CPU")
    decision = _decision(settings, out, screen, defaults.timed)
    if not settings.chunks and decision.chunks is not None:
        settings = with_chunks(settings, locked_chunks(decision))
    trained = _trained(settings, out, screen, 2, 5)
    screen.at(3, 5, f"a rollback rehearsed: {_rehearsal_left(trained, defaults)}")
    rehearsed = None if trained.ended else _rehearsed(trained, out, screen, defaults.rehearsal)
    config, params, texts = _looked_at(trained, defaults.texts)
    screen.at(4, 5, "resets of local memories in a text")
    at_resets = resets.projection_gate(config, params, texts[:, :-1])
    screen.at(5, 5, "gradients at the end of a shard")
    at_shards = resets.gradient_gate(config, params, texts)
    of_probes = cost.probe_gate(trained.decision, trained.metrics, trained.probes, _tokens_of_step(trained.run))
    gates = [
        cost.chunk_gate(decision, trained.run.config.chunks),
        of_probes,
        at_resets,
        course.steps_gate(trained.metrics, trained.rollbacks, trained.events, settings.steps),
        _needles(trained, "G2-5"),
        rehearsal.rollback_gate(rehearsed),
        at_shards,
    ]
    return Report(2, gates, trained, decision, rehearsed, time.monotonic() - began)


def phase_four(options: Options, out: Path, screen: Screen, defaults: Defaults) -> Report:
    """The gates G4-1 to G4-4, of a run in two stages.

    Args:
      options, out, screen, defaults: as for `phase_two`.

    Raises:
      KeyboardInterrupt: the screen was interrupted; the next call goes on.
    """
    began, settings = time.monotonic(), run_settings(options, defaults)
    config = _config(settings)
    sizes = tuple(size for size in decoding.SIZES if config.shard is None or config.shard % size == 0)
    settings = in_two_stages(settings, config.chunks, sizes, defaults.stage_two_share)
    trained = _trained(settings, out, screen, 1, 3)
    config, params, texts = _looked_at(trained, defaults.texts)
    screen.at(2, 3, f"held-out perplexity over {len(decoding.SIZES)} chunks, each of which compiles")
    spread = decoding.chunk_sizes_gate(decoding.perplexities(trained.run, trained.state.params))
    screen.at(3, 3, "decoding token by token")
    gates = [
        course.rollbacks_gate(trained.rollbacks, len(trained.metrics), settings.steps),
        spread,
        _needles(trained, "G4-3"),
        decoding.decoding_gate(config, params, texts[:, :-1]),
    ]
    return Report(4, gates, trained, None, None, time.monotonic() - began)


def write_json(report: Report, path: Path) -> None:
    """All gates and their figures; whole or not at all.

    Args:
      report: of a phase.
      path: of the file.
    """
    run = report.trained.run
    content = {
        "phase": report.phase,
        "passed": all(gate.passed for gate in report.gates),
        "summary": summary(report.gates),
        "gates": [asdict(gate) | {"line": gate.line()} for gate in report.gates],
        "run": {
            "settings": asdict(run.settings),
            "config": asdict(run.config),
            "parameters": run.parameters,
            "steps": len(report.trained.metrics),
            "ended": report.trained.ended,
        },
        "machine": machine(),
        "seconds": round(report.seconds, 1),
        "time": time.time(),
    }
    write_whole(path, json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """As JSON has it: what is no number is null."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _config(settings: Settings) -> AtlasConfig:
    """Of the model, its chunks perhaps still to be decided."""
    _, preset = preset_of(settings)
    return configured(preset, settings, vocabulary=ByteTokenizer().vocab_size, length=settings.length or preset.context)


def _decision(settings: Settings, out: Path, screen: Screen, timed: int) -> Decision:
    """On chunk sets: the one in the folder, if it is of this model and machine."""
    config, path = _config(settings), out / CHUNKS
    speed = TrainingSpeed(settings.batch, config.context, timed)
    measured = {**speed._asdict(), "config": _plain(asdict(replace(config, chunks=(1,))))}
    if path.exists():
        known = read_decision(path)
        if known.measured == measured and known.machine.get("device") == jax.devices()[0].device_kind:
            return known

    def measure(config: AtlasConfig) -> float:
        if screen.interrupted():
            raise KeyboardInterrupt
        began = time.monotonic()
        found = speed(config)
        told = "without shards" if config.shard is None else f"shard {config.shard}"
        screen.say(
            f"  chunks {', '.join(map(str, config.chunks))} ({told}): {found:,.0f} tokens/s; {duration(time.monotonic() - began)}"
        )
        return found

    found = decide(config, measure, length=speed.length, measured=measured)
    write_decision(found, path)
    screen.say(f"  {found.verdict}")
    return found


def _trained(settings: Settings, out: Path, screen: Screen, number: int, of: int) -> Trained:
    run = resolve(settings, out / RUN)
    tokens = run.tokens
    screen.at(
        number,
        of,
        f"training {settings.preset}, {run.parameters:,} parameters, chunks {', '.join(map(str, run.config.chunks))}, "
        f"{settings.steps:,} steps of {settings.batch} x {tokens.train.length} tokens",
    )
    with screen.display(settings.steps) as display:
        found = train(run, display, screen.interrupted)
    if found.ended:
        screen.say(f"training ended early: {found.ended}")
    return found


def _rehearsal_left(trained: Trained, defaults: Defaults) -> str:
    steps = defaults.rehearsal.lead + 2 * defaults.rehearsal.after
    if not trained.metrics:
        return f"some {steps} steps"
    speed = float(np.median([row["tokens_per_second"] for row in trained.metrics]))
    return f"some {steps} steps, about {duration(steps * _tokens_of_step(trained.run) / speed)}"


def _rehearsed(trained: Trained, out: Path, screen: Screen, plan: rehearsal.Plan) -> rehearsal.Rehearsed:
    """What was found before with this very run and this plan, else found now."""
    path = out / RUN / EVIDENCE
    # No two runs took their last step at the same time.
    about = {"step": int(trained.state.step), "time": trained.metrics[-1]["time"], "plan": asdict(plan)}
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["about"] == about:
            return rehearsal.Rehearsed(**known["found"])
    with screen.display(trained.run.settings.steps + plan.lead + plan.after) as display:
        found = rehearsal.rehearse(
            trained.run,
            trained.state,
            out / REHEARSAL,
            plan,
            hooks=[display],
            sinks=[display.row],
            interrupted=screen.interrupted,
        )
    write_whole(path, json.dumps(_plain({"about": about, "found": found._asdict()})) + "\n")
    return found


def _looked_at(trained: Trained, texts: int) -> tuple[AtlasConfig, Any, np.ndarray]:
    """Config, parameters on one device, and held-out windows to read."""
    run = trained.run
    params = jax.tree.map(lambda leaf: leaf.addressable_data(0), trained.state.params)
    return run.config, params, run.tokens.held_out.spread(texts)


def _tokens_of_step(run: Run) -> int:
    return run.settings.batch * run.tokens.train.length


def _needles(trained: Trained, gate: str) -> Gate:
    """Of the last step's probe, its texts no longer than the context."""
    run, last = trained.run, trained.metrics[-1:] if trained.ended is None else []
    context, task = run.config.context, task_of(run.config.context)
    lengths = [length for length in task.lengths if length <= context]
    row = None
    if last and "niah_map" in last[0]:
        cut = {name: last[0][name][: len(lengths)] for name in ("niah_map", "niah_control_map")}
        row = last[0] | cut
    # The control reads a window, also of a model that attends to none.
    read = max(course.reach(run.config), run.config.window, task.asked)
    is_far = course.far(lengths, [task.hay(length) for length in lengths], task.depths, read)
    return course.needles_gate(row, is_far, examples=task.examples, context=context, lengths=lengths, gate=gate)
