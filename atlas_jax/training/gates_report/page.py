"""The report as one page that needs nothing beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from atlas_jax.training.gates_report.gate import Gate, summary
from atlas_jax.training.gates_report.plots import chunks_plot, element, loss_plot
from atlas_jax.training.gates_report.report import Report
from atlas_jax.training.machine import machine
from atlas_jax.training.needles.heat_map import draw_needle_map
from atlas_jax.training.runs.probes import task_of
from atlas_jax.training.runs.progress import duration
from atlas_jax.training.whole_file import write_whole


def write_page(report: Report, path: Path) -> None:
    """Writes the page, whole or not at all; it asks nothing of the network and runs no script.

    Args:
      report: of a phase.
      path: of the file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_whole(path, environment.get_template("page.html.jinja").render(_view(report)))


def _view(report: Report) -> dict[str, Any]:
    trained, run = report.trained, report.trained.run
    needles = next(gate for gate in report.gates if gate.title == "needles")
    sweep = next((gate for gate in report.gates if gate.id == "G4-2"), None)
    changed = ", ".join(run.settings.config)
    return {
        "phase": report.phase,
        "gates": report.gates,
        "summary": summary(report.gates),
        "passed": all(gate.passed for gate in report.gates),
        "ended": trained.ended,
        "losses": Markup(loss_plot(trained.metrics, trained.held_out, report.rehearsed)),
        "needles": Markup(_needle_map(needles, trained.metrics[-1])) if needles.measured else None,
        "decision": report.decision,
        "chunks": None if sweep is None else Markup(chunks_plot({int(n): p for n, p in sweep.measured.items()})),
        "facts": {
            "model": f"{run.settings.preset}{f' ({changed})' if changed else ''}, {run.parameters:,} parameters",
            "chunks": f"{', '.join(map(str, run.config.chunks))}, shard {run.config.shard}, global {run.config.global_chunk}",
            "training": (
                f"{len(trained.metrics):,} steps of {run.settings.batch} × {run.tokens.train.length} tokens, "
                f"{run.settings.needles:.0%} of them texts with needles"
            ),
            "data": ", ".join(map(str, run.settings.data)) or "the source of Python's standard library",
            "machine": "{cpu}, {devices} × {device}, jax {jax}".format(**machine()),
            "this call took": duration(report.seconds),
        },
    }


def _needle_map(gate: Gate, row: dict[str, Any]) -> str:
    """All lengths that were probed, those beyond the context too."""
    context = gate.measured["context"]
    task = task_of(context)
    right, control = (np.nan_to_num(np.asarray(row[name], np.float64)) for name in ("niah_map", "niah_control_map"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "needles.svg"
        draw_needle_map(path, right, control, lengths=task.lengths, depths=task.depths, trained=context)
        return element(path.read_text(encoding="utf-8"))
