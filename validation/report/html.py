"""The report as one self-contained page."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from validation.report import plots, wording
from validation.report.model import Dimension, Prediction, Report

_FOLDER = Path(__file__).parent
_LONGEST_LIST = 20


@dataclass(frozen=True)
class Plot:
    """A plot with its words; `svg` is None where there was nothing to draw, and `missing` then says why."""

    title: str
    svg: Markup | None
    reading: str
    missing: str


@dataclass(frozen=True)
class View:
    """A report with what the template needs beside it; `key` makes its anchors unique in the page."""

    key: str
    name: str
    report: Report
    plots: list[Plot]
    statistics: list[tuple[str, str]]
    data: list[tuple[str, str]]
    environment: list[tuple[str, str]]
    config: list[tuple[str, str]]


def render_html(report: Report) -> str:
    """The report, and its companions below it, as one page that asks nothing of the network.

    Everything that came from the data is escaped. A content security policy also lets nothing load and no script run
    but the page's own row filter, which is not needed to read it.

    Args:
      report: the finished report.

    Returns:
      an HTML document that encodes to UTF-8.
    """
    script = (_FOLDER / "filter.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    reports = [report, *report.companions]
    return (
        _environment()
        .get_template("template.html.jinja")
        .render(
            views=[_view(one, f"r{place}") for place, one in enumerate(reports)],
            names_of_dimensions=list(dict.fromkeys(d.name for one in reports for d in one.dimensions)),
            style=Markup((_FOLDER / "style.css").read_text(encoding="utf-8")),
            script=Markup(script),
            policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'",
        )
    )


def facts(
    values: Mapping[str, Any], show: Callable[[int | float], str], missing: str, above: str = ""
) -> list[tuple[str, str]]:
    """A nested dictionary as lines of a table: ("Seconds, tier 1", "41.7 s").

    Args:
      values: dictionary of numbers, text, lists and dictionaries.
      show: how a number is written where its key does not say (bytes and seconds have their units).
      missing: the words for None.
      above: label of the dictionary that holds this one.
    """
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{above}, {wording.label(key).lower()}" if above else wording.label(key)
        if isinstance(value, Mapping):
            lines += facts(value, show, missing, name)
        else:
            lines.append((name, _fact(name.lower(), value, show, missing)))
    return lines


def _fact(name: str, value: Any, show: Callable[[int | float], str], missing: str) -> str:
    if isinstance(value, list | tuple):
        words = [_fact(name, one, show, missing) for one in value[:_LONGEST_LIST]]
        more = [f"and {len(value) - _LONGEST_LIST:,} more"] if len(value) > _LONGEST_LIST else []
        return ", ".join(words + more) or "none"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_fact(name, one, show, missing)}" for key, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and not math.isnan(value):
        return _amount(name, value, show)
    return value if isinstance(value, str) else missing


def _amount(name: str, value: int | float, show: Callable[[int | float], str]) -> str:
    if "bytes" in name or "peak memory" in name:
        return wording.file_size(value)
    return wording.duration(value) if "seconds" in name else show(value)


def _view(report: Report, key: str) -> View:
    shown = {name: value for name, value in report.data.items() if name != "statistics"}
    shown.pop("length_quantiles", None)
    statistics = dict(report.data.get("statistics", {}))
    statistics.pop("length_quantiles", None)
    quantiles = plots.length_quantiles(report)
    statistics["row_length_in_bytes"] = {f"{percent:g} % of rows at most": n for percent, n in quantiles.items()}
    return View(
        key=key,
        name=wording.report_name(report),
        report=report,
        plots=[_own(plot, key) for plot in _plots(report)],
        statistics=facts(statistics, wording.number, wording.NOT_MEASURED),
        data=facts(shown, wording.number, "none"),
        environment=facts(report.environment, str, "unknown"),
        config=facts(report.config, str, "not set"),
    )


def _plots(report: Report) -> list[Plot]:
    with_control = any(tier.control_loss is not None for tier in report.tiers)
    law = (
        "Lines are the fitted law and rings the points it rests on; red is what was predicted before tier 3 trained, "
        "drawn beside the diamond of its actual mean."
        if report.scaling
        else "No scaling law was fitted, so there are no lines."
    )
    several = len({row.file for row in report.flagged_rows}) > 1
    return [
        _plot(
            plots.dimension_scores(report),
            "Dimension scores",
            "Points of risk for each dimension; more than 50 fails. Unknown means no answer, not zero risk.",
            "No dimension was computed.",
        ),
        _plot(
            plots.final_losses(report),
            "Data against control, model by model",
            "Each dot is a model, filled at the better learning rate, and each tick the mean of those; "
            + (
                "harm is a gap wider than their spread."
                if with_control
                else "no control was trained, so no harm shows here."
            ),
            "No model was trained, so there are no final losses to compare.",
        ),
        _plot(
            plots.learning_curves(report),
            "Learning curves",
            "Training loss as tokens are seen; the first steep steps may leave the frame."
            + (" Dashed: models trained on the control." if with_control else " No control was trained."),
            "No model was trained, so there are no learning curves.",
        ),
        _plot(
            plots.scaling_curves(report),
            "Scaling and the tier-3 prediction",
            f"Held-out loss at decayed checkpoints. {law}",
            "No checkpoint was measured, so there is no scaling to show.",
        ),
        _plot(
            plots.flagged_positions(report),
            "Where the flagged rows lie",
            "One stroke is a row of the list below" + ("; each file has its own lanes." if several else "."),
            "No row was flagged, so there is no map of them.",
        ),
        _plot(
            plots.row_lengths(report),
            "Row lengths",
            "How much of the data is no longer than a given length; cliffs mean truncation or templates.",
            "Length quantiles were not measured.",
        ),
    ]


def _plot(svg: str | None, title: str, reading: str, missing: str) -> Plot:
    return Plot(title, None if svg is None else Markup(svg), reading, missing)


def _own(plot: Plot, key: str) -> Plot:
    """The plot with ids of this report: two reports of equal data have equal figures, and a page has no id twice."""
    if plot.svg is None:
        return plot
    svg = re.sub(r'( id="|url\(#|href="#)(?=f)', rf"\g<1>{key}-", str(plot.svg))
    return dataclasses.replace(plot, svg=Markup(svg))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["dimension"] = _dimension
    environment.globals["prediction_words"] = _prediction_words
    environment.globals["digest_fits"] = _digest_fits
    environment.globals["issue_class"] = plots.issue_name
    for name in (
        *("number", "signed", "interval", "compact", "duration", "risk_points", "result", "bar", "gain"),
        *("calibration", "detectable_harm", "unknown_dimensions", "plural", "one_line"),
    ):
        environment.filters[name] = getattr(wording, name)
    return environment


def _finalize(value: Any) -> Any:
    """What is put for a value in the template: never "None" or "nan", never a control character."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return wording.NOT_MEASURED
    return wording.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _dimension(report: Report, name: str) -> Dimension | None:
    return next((one for one in report.dimensions if one.name == name), None)


def _digest_fits(prediction: Prediction) -> bool:
    return hashlib.sha256(prediction.written.encode("utf-8", "backslashreplace")).hexdigest() == prediction.digest


def _prediction_words(prediction: Prediction) -> str:
    """How the prediction fared, in words."""
    if prediction.actual is None:
        return "Tier 3 was not trained, so the prediction is unchecked."
    low, high = prediction.interval
    inside = "inside" if low <= prediction.actual <= high else "outside"
    mine, naive = abs(prediction.predicted - prediction.actual), abs(prediction.baseline - prediction.actual)
    compared = "closer than" if mine < naive else "no closer than"
    return (
        f"The actual loss lies {inside} the predicted interval. The prediction was off by {wording.number(mine)} bits "
        f"per token, {compared} the naive one, which was off by {wording.number(naive)}."
    )
