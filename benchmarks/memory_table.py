"""Tables, in Markdown, of the figures of `benchmarks.memory_quality`, what each part of a memory is worth, and a plot.

    python -m benchmarks.memory_table > TABLE.md

Whatever is said here is computed from the lines: means and standard deviations over the seeds, and for each part the mean of
the differences seed by seed, between two models of equal parameters of which one has the part, with its 95 % interval
(Student's t). A part helps or hurts where that interval leaves out 0; anywhere else the seeds do not show that it matters.
Where a figure was measured more than once the last line counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from matplotlib.figure import Figure
from scipy.stats import t as student

from benchmarks.quality.lineup import ABLATION, EVERYTHING, FULL, KINDS
from benchmarks.quality.memory_tasks import TASKS
from benchmarks.quality.records import spread
from validation.report.svg import PALETTE, style

LINES = {  # of the plot: colour and dashes
    EVERYTHING: (PALETTE["ink"], "-"),
    "window": (PALETTE["muted"], "--"),
    "titans": (PALETTE["tier-2"], "-"),
    "omega": (PALETTE["tier-1"], "-"),
    "omega-features": (PALETTE["tier-3"], "-"),
    "muon": (PALETTE["issue-3"], "-"),
    "gate": (PALETTE["issue-2"], "-"),
    "tnt": (PALETTE["issue-1"], "-"),
    "linear": (PALETTE["issue-5"], "--"),
    "delta": (PALETTE["fail"], "-"),
    "delta-negative": (PALETTE["fail"], ":"),
}
SETTINGS = ("length", "batch", "steps", "tests")  # what all lines of a task must share


@dataclass(frozen=True)
class Options:
    """Prints tables and draws."""

    results: Path = Path("benchmarks/results/memory_quality.jsonl")
    """What `benchmarks.memory_quality` wrote."""
    plot: Path | None = None
    """Where to draw; beside the results if not given."""


class Part(NamedTuple):
    """Two models of one line-up, one with something that the other is without."""

    name: str
    having: str
    lacking: str
    published: str = ""


# Published: perplexity of the paper's Atlas, 19.97, without the part (arXiv:2505.23735, ablation).
PARTS = (
    Part("Omega window", "omega", "titans"),
    Part("polynomial features", "omega-features", "omega"),
    Part("deep memory", "titans", "linear"),
    Part("attention in half the state", "gate", "titans"),
    Part("hierarchy", "tnt", "titans"),
    Part("eigenvalues below 0", "delta-negative", "delta"),
    Part("Omega window, in Atlas", FULL, "atlas-no-window", "21.98"),
    Part("polynomial features, in Atlas", FULL, "atlas-no-features", "22.14"),
    Part("deep memory, in Atlas", FULL, "atlas-linear", "21.03"),
    Part("Muon, in Atlas", FULL, "atlas-no-muon", "19.65"),
    Part("attention, in Atlas", FULL, "atlas-no-attention"),
    Part("squared loss for a product, in Atlas", FULL, "atlas-dot"),
    Part("descent for ascent, in Atlas", FULL, "atlas-ascent"),
)


class Model(NamedTuple):
    """What a row of a table is about."""

    name: str
    preset: str


Figures = dict[Model, dict[str, dict[int, dict[str, Any]]]]  # by level and seed


def read(path: Path) -> dict[str, Figures]:
    """Test lines of single seeds, by task, those with the settings of the task's last one; of equal ones the last."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line.get("part") == "test" and "seed" in line]
    settings = {line["task"]: [line[name] for name in SETTINGS] for line in lines}
    found: dict[str, Figures] = {name: {} for name in TASKS if name in settings}
    for line in lines:
        if [line[name] for name in SETTINGS] == settings[line["task"]]:
            levels = found[line["task"]].setdefault(Model(line["model"], line["preset"]), {})
            levels.setdefault(line["level"], {})[line["seed"]] = line
    return found


def is_text(figures: Figures) -> bool:
    """Whether figures are bits per byte, of which fewer are better."""
    return _any_line(figures)["unit"] == "bits per byte"


def _any_line(figures: Figures) -> dict[str, Any]:
    return next(line for levels in figures.values() for seeds in levels.values() for line in seeds.values())


def _ordered(figures: Figures, names: Iterable[str]) -> list[Model]:
    return [model for name in names for model in sorted(figures) if model.name == name]


def _by_number(level: str) -> list[tuple[int, str]]:
    """Sorts the numbers in a level's name as numbers: "length-64.depth-10" before "length-128.depth-10"."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", level)]


def _cell(figures: Figures, model: Model, level: str) -> str:
    seeds = figures.get(model, {}).get(level, {})
    values = [line["value"] for line in seeds.values()]
    if not values:
        return ""
    if is_text(figures):
        return f"{np.mean(values):.3f} ± {spread(values):.3f}"
    return f"{100 * np.mean(values):.0f} ± {100 * spread(values):.0f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows), ""]


def _about(figures: Figures) -> str:
    line = _any_line(figures)
    seeds = {len(seeds) for levels in figures.values() for seeds in levels.values()}
    return (
        f"{line['steps']:,} steps of {line['batch']} x {line['length']} tokens, {'/'.join(map(str, sorted(seeds)))} seeds, "
        f"about {line['parameters']:,} parameters"
    )


def _said(model: Model) -> str:
    return model.name if model.preset == "one-size" else f"{model.name}, {model.preset.replace('-', ' ')}"


def task_table(task: str, figures: Figures, names: Sequence[str]) -> list[str]:
    """One table of a task: models in the rows, levels in the columns; nothing if none of the models was measured."""
    models = _ordered(figures, names)
    if not models:
        return []
    levels = sorted({level for model in models for level in figures[model]}, key=_by_number)
    unit = "bits per byte" if is_text(figures) else "answers right, %"
    rows = [
        [
            _said(model),
            f"{next(iter(next(iter(figures[model].values())).values()))['state_bytes'] / 1024:.1f}",
            *(_cell(figures, model, level) for level in levels),
        ]
        for model in models
    ]
    return [f"**{task}**, {unit}: {_about(figures)}.", "", *_table(["model", "state, KiB", *levels], rows)]


class Gain(NamedTuple):
    """How much better models with a part are than those without.

    Attributes:
      mean: of the differences, positive where the part helps.
      half: of the 95 % interval; infinite for a single seed.
    """

    mean: float
    half: float

    @property
    def verdict(self) -> str:
        """What may be said."""
        if self.mean - self.half > 0:
            return "helps"
        return "hurts" if self.mean + self.half < 0 else "not shown to matter"


def gain(figures: Figures, having: Model, lacking: Model) -> Gain | None:
    """Paired by seed, mean over the levels that both have; None where they share no seed."""
    levels = [level for level in figures.get(having, {}) if level in figures.get(lacking, {})]
    if not levels:
        return None
    seeds = set.intersection(*(set(figures[model][level]) for model in (having, lacking) for level in levels))
    if not seeds:
        return None
    sign = -1 if is_text(figures) else 1
    differences = [
        sign
        * float(np.mean([figures[having][at][seed]["value"] - figures[lacking][at][seed]["value"] for at in levels]))
        for seed in sorted(seeds)
    ]
    count = len(differences)
    half = float(student.ppf(0.975, count - 1) * spread(differences) / count**0.5) if count > 1 else float("inf")
    return Gain(float(np.mean(differences)), half)


def gains(tasks: dict[str, Figures]) -> list[list[str]]:
    """Rows of the table of what each part is worth."""
    rows = []
    for part in PARTS:
        for task, figures in tasks.items():
            for having in _ordered(figures, [part.having]):
                found = gain(figures, having, Model(part.lacking, having.preset))
                if found is not None:
                    scale, unit, digits = (1, "bits per byte", 4) if is_text(figures) else (100, "points", 1)
                    amount = f"{scale * found.mean:+.{digits}f} ± {scale * found.half:.{digits}f} {unit}"
                    where = task if having.preset in ("one-size", "chunk-16") else f"{task}, {having.preset}"
                    rows.append([part.name, where, amount, found.verdict, part.published])
    return rows


def markdown(tasks: dict[str, Figures]) -> str:
    """All tables."""
    lines: list[str] = []
    for title, names in (("Kinds of models", tuple(KINDS)), ("Atlas without each of its parts", tuple(ABLATION))):
        found = [line for task, figures in tasks.items() for line in task_table(task, figures, names)]
        lines += [f"### {title}", "", *found] if found else []
    head = ["part", "task", "gain, 95 % interval over seeds", "says", f"published perplexity without ({FULL}: 19.97)"]
    return "\n".join([*lines, "### What each part is worth", "", *_table(head, gains(tasks))])


def draw(tasks: dict[str, Figures], path: Path) -> None:
    """Share of answers right by level, a panel for every task that has several; memories of chunks of 16 or 1.

    Nothing is drawn where no task has several.
    """
    shown = {
        task: figures
        for task, figures in tasks.items()
        if not is_text(figures) and len({level for levels in figures.values() for level in levels}) > 1
    }
    if not shown:
        return
    with style():
        columns = 2
        drawing = Figure(figsize=(8.6, 2.7 * -(-len(shown) // columns) + 0.5), layout="constrained")
        panels = drawing.subplots(-(-len(shown) // columns), columns, squeeze=False, sharey=True).ravel()
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        for axes, (task, figures) in zip(panels, shown.items(), strict=False):
            for model in _ordered(figures, LINES):
                if model.preset in ("one-size", "chunk-16", "chunk-1"):
                    levels = dict(sorted(figures[model].items(), key=lambda one: _by_number(one[0])))
                    means = [100 * np.mean([line["value"] for line in seeds.values()]) for seeds in levels.values()]
                    colour, dashes = LINES[model.name]
                    axes.plot(list(levels), means, dashes, color=colour, marker="o", ms=3, label=model.name)
            axes.set_title(task, loc="left")
            axes.set(ylim=(0, 103))
            axes.tick_params(axis="x", labelrotation=20 if len(axes.get_xticks()) < 5 else 60, labelsize=8)
        panels[0].set(ylabel="answers right, %")
        lines = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        drawing.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=6)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, dpi=160, facecolor="white")


def main() -> None:
    """Prints the tables and draws."""
    options = tyro.cli(Options, description=__doc__)
    if not options.results.exists():
        raise SystemExit(
            f"{options.results}: not there, expected the lines of python -m benchmarks.memory_quality --tune"
        )
    tasks = read(options.results)
    print(markdown(tasks))
    draw(tasks, options.plot or options.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
