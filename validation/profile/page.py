"""A profile as one self-contained page, and as figures that profile.json holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from validation import report
from validation.profile import plots
from validation.profile.compare import Comparison
from validation.profile.dependence import pairs
from validation.profile.drift import Change, changes
from validation.profile.features import features
from validation.profile.figures import column_figures, iso_time, table_figures
from validation.profile.geometry import SHOWN_GROUPS, Geometry, geometry
from validation.profile.state import Profile
from validation.report import wording

MOST_COLUMNS = 100
MOST_LINES = 40
_HERE, _REPORT = Path(__file__).parent, Path(report.__file__).parent
_UNITS = {
    "mean": "standard deviations",
    "length": "standard deviations of the length",
    "spread": "doublings of the spread",
    "values": "of the rows hold other values",
    "words": "of the words are others",
    "missing": "of the rows more or fewer nulls",
}


class Figures(NamedTuple):
    """Everything derived from a profile that its page, its summary and profile.json show."""

    table: dict[str, Any]
    columns: list[dict[str, Any]]
    changes: list[Change]
    pairs: list[Any]
    geometry: Geometry | None
    features: dict[str, float]


def all_figures(profile: Profile) -> Figures:
    """Derives all figures once."""
    columns = [column_figures(profile, column) for column in profile.columns]
    return Figures(
        table_figures(profile), columns, changes(profile), pairs(profile), geometry(profile), features(profile)
    )


def as_document(profile: Profile, figures: Figures, comparison: Comparison | None = None) -> dict[str, Any]:
    """The readable part of profile.json."""
    return {
        "source": {name: value for name, value in profile.source.items() if name != "files"},
        "table": figures.table,
        "columns": figures.columns,
        "changes": [change._asdict() for change in figures.changes],
        "dependence": [pair._asdict() for pair in figures.pairs],
        "geometry": None if figures.geometry is None else _as_dict(figures.geometry),
        "features": figures.features,
        "comparison": None if comparison is None else comparison.as_dict(),
    }


def _as_dict(geometry: Geometry) -> dict[str, Any]:
    return geometry._asdict() | {
        "spread": geometry.spread._asdict(),
        "groups": [group._asdict() for group in geometry.groups],
        "left_out": dict(geometry.left_out),
    }


def render(
    profile: Profile, figures: Figures, comparison: Comparison | None = None, reference: Profile | None = None
) -> str:
    """The page, which loads nothing and runs no script; everything that came from the data is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "plural", "compact", "file_size", "one_line"):
        environment.filters[name] = getattr(wording, name)
    environment.filters["percent"] = percent
    environment.filters["change"] = lambda change: change_words(profile, change)
    environment.filters["facts"] = column_facts
    shown = list(zip(profile.columns, figures.columns, strict=True))[:MOST_COLUMNS]
    texts = [(c, f) for c, f in shown if c.text is not None]
    return environment.get_template("page.html.jinja").render(
        profile=profile,
        name=Path(profile.source["path"].rstrip("/\\")).name or profile.source["path"],
        table=figures.table,
        columns=[(f, _svg(plots.column_plot(profile, c, reference))) for c, f in shown],
        hidden=len(profile.columns) - len(shown),
        changes=figures.changes[:MOST_LINES],
        more_changes=max(0, len(figures.changes) - MOST_LINES),
        changes_plot=_svg(plots.changes_plot(profile, figures.changes)),
        pairs=figures.pairs[:MOST_LINES],
        pairs_plot=_svg(plots.dependence_plot(figures.pairs)),
        texts=[(f, _svg(plots.zipf_plot(c))) for c, f in texts],
        geometry=figures.geometry,
        inf=math.inf,
        groups=() if figures.geometry is None else figures.geometry.groups[:SHOWN_GROUPS],
        comparison=comparison,
        comparison_plot=None if comparison is None else _svg(plots.comparison_plot(comparison)),
        features=figures.features,
        style=Markup((_REPORT / "style.css").read_text(encoding="utf-8")),
    )


def _svg(text: str | None) -> Markup | None:
    return None if text is None else Markup(text)


def _finalize(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return wording.NOT_MEASURED
    return wording.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def percent(share: float | None) -> str:
    """A share in percent: "0.27 %", "none" for zero."""
    if share is None or not math.isfinite(share):
        return wording.NOT_MEASURED
    if share == 0:
        return "none"
    if share < 1e-4:
        return "under 0.01 %"
    text = f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.2g}"
    return f"{text} %" if share == 1 or text != "100" else "over 99.5 %"


def change_words(profile: Profile, change: Change) -> str:
    """A change in words: where, what, how much."""
    first, last = (profile.files[min(file, len(profile.files) - 1)] for file in (change.file, change.last_file))
    if first == last:
        where = f"{first}: rows {change.row:,} to {change.last_row:,}"
    else:
        where = f"{first} row {change.row:,} to {last} row {change.last_row:,}"
    size = percent(change.effect) if change.aspect in ("values", "words", "missing") else f"{change.effect:.2f}"
    return f"{where}: {size} {_UNITS[change.aspect]}"


def column_facts(column: dict[str, Any]) -> list[tuple[str, str]]:
    """What is worth saying of a column in a few lines."""
    values = column["values"]
    about = "about " if values["distinct_error"] else ""
    facts = [("Distinct", f"{about}{values['distinct']:,}")]
    if column["null_share"]:
        facts.append(("Nulls", percent(column["null_share"])))
    if column["null_share"] == 1:
        return facts
    numbers, kind = column.get("numbers"), column["kind"]
    if "dates" in column:
        facts += _date_facts(column["dates"])
    elif numbers is not None:
        facts += _number_facts(numbers, kind)
    elif "text" not in column:
        facts += [
            ("Entropy", f"{wording.number(values['entropy'])} bits"),
            ("Rare values", percent(values["rare_share"])),
        ]
        facts.append(("Unseen (Good–Turing)", percent(values["unseen"])))
    else:
        text = column["text"]
        facts += [
            ("Repeated rows", percent(values["repeated_share"])),
            ("Empty rows", percent(text["empty_rows"] / max(text["rows"], 1))),
            ("Words", wording.compact(text["words"])),
            ("Size", wording.file_size(text["bytes"])),
        ]
    return facts


def _number_facts(numbers: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    quantiles = numbers["quantiles"]
    facts = [
        ("Range", f"{wording.number(numbers['min'])} to {wording.number(numbers['max'])}"),
        ("Mean ± SD", f"{wording.number(numbers['mean'])} ± {wording.number(numbers['standard_deviation'])}"),
        ("Median, quartiles", ", ".join(wording.number(quantiles[q]) for q in ("0.5", "0.25", "0.75"))),
        ("Skewness, kurtosis", f"{wording.number(numbers['skewness'])}, {wording.number(numbers['excess_kurtosis'])}"),
        ("Zeros, outliers", f"{percent(numbers['zero_share'])}, {percent(numbers['outlier_share'])}"),
    ]
    if numbers["nan"] or numbers["infinite"]:
        facts.append(("NaN, infinite", f"{numbers['nan']:,}, {numbers['infinite']:,}"))
    if abs(numbers["autocorrelation"]) > 0.1:
        facts.append(("Like the row before", f"{numbers['autocorrelation']:.2f} (autocorrelation)"))
    if numbers["few_integers"]:
        facts.append(("Note", "few integers: perhaps a category"))
    return facts if kind == "number" else facts[:3]


def _date_facts(dates: dict[str, Any]) -> list[tuple[str, str]]:
    step = dates["usual_step"]
    facts = [
        ("First", str(dates["first"])),
        ("Last", str(dates["last"])),
        ("Zone", dates["zone"] or "none given"),
        ("In order", percent(dates["sorted_share"])),
    ]
    if math.isfinite(step) and dates["usual_step_share"] >= 0.5:
        facts.append(("Usual step", f"{wording.duration(step)} ({percent(dates['usual_step_share'])})"))
        facts.append(("Gaps", wording.number(dates["gaps"])))
    if math.isfinite(dates["largest_step"]):
        facts.append(
            ("Largest step", f"{wording.duration(dates['largest_step'])} before row {dates['largest_step_row']:,}")
        )
    return facts


__all__ = ["Figures", "all_figures", "as_document", "change_words", "iso_time", "percent", "render"]
