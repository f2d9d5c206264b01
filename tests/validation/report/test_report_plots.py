"""The plots: the same text for the same report, theme colours, nothing drawn where nothing was measured."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from report_example import NASTY, example, without_measurements

from validation.report import FlaggedRow, plots, svg

ALL = [
    plots.learning_curves,
    plots.scaling_curves,
    plots.dimension_scores,
    plots.final_losses,
    plots.flagged_positions,
    plots.row_lengths,
]


def words(drawn: str) -> str:
    return " ".join(text.strip() for text in ElementTree.fromstring(drawn).itertext() if text.strip())


@pytest.mark.parametrize("plot", ALL)
def test_plot_is_deterministic_self_contained_and_themed(plot):
    before = dict(matplotlib.rcParams)
    drawn = plot(example())
    assert drawn == plot(example())
    assert dict(matplotlib.rcParams) == before
    root = ElementTree.fromstring(drawn)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", drawn)
    assert set(re.findall(r"url\(#([^)]+)\)", drawn)) <= set(re.findall(r'id="([^"]+)"', drawn))
    # Every colour follows the page; matplotlib's own black and white would vanish in one of its two themes.
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawn))
    assert not colours


def test_page_sets_every_colour_of_the_plots_for_light_and_for_dark():
    css = (Path(svg.__file__).parent / "style.css").read_text(encoding="utf-8")
    light, dark = css.split("prefers-color-scheme: dark", 1)
    for name in svg.PALETTE:
        assert f"--{name}: #" in light
        assert f"--{name}: #" in dark


def test_plots_without_measurements_are_left_out():
    empty = without_measurements(example())
    names = {plot.__name__ for plot in ALL if plot(empty) is not None}
    assert names == {"dimension_scores", "row_lengths"}
    bare = dataclasses.replace(empty, dimensions=[], data={"rows": 0})
    assert [plot(bare) for plot in ALL] == [None] * len(ALL)


def test_controls_and_tiers_are_told_apart():
    with_control, without = (plots.learning_curves(example(with_control=c)) for c in (True, False))
    assert words(with_control).endswith("tier 1 tier 2 tier 3 control")
    assert words(without).endswith("tier 1 tier 2 tier 3")
    assert with_control.count("stroke-dasharray") > without.count("stroke-dasharray")


def test_prediction_stands_beside_the_actual_loss():
    report = example()
    assert {"predicted, with interval", "actual mean"} <= set(
        re.findall(r">([^<>\n]+)</text>", plots.scaling_curves(report))
    )
    unfitted = plots.scaling_curves(dataclasses.replace(report, scaling=None))
    assert "predicted" not in words(unfitted)
    assert "tier 3" in words(unfitted)


def test_unknown_score_is_written_not_drawn_as_zero():
    report = example(with_control=False)
    assert words(plots.dimension_scores(report)).count("unknown") == 3


def test_excess_over_control_is_written_per_tier():
    text = words(plots.final_losses(example()))
    tiers = example().tiers
    assert f"tier 1: data minus control +{tiers[0].loss - tiers[0].control_loss:.3f}" in text
    assert "tier 3: no control trained" in text


def test_better_learning_rate_is_the_filled_one():
    report = example(with_control=False)
    faster = [m for t in report.tiers for m in t.models if m.learning_rate == 0.003]  # it has the lower loss
    marks = re.findall(r"<use [^>]*fill: ([^;]+);", plots.final_losses(report))
    assert marks.count("var(--tier-2, #3579c0)") == len(faster) == 10
    swapped = [
        dataclasses.replace(t, models=[dataclasses.replace(m, loss=2 * t.loss - m.loss) for m in t.models])
        for t in report.tiers
    ]
    marks = re.findall(r"<use [^>]*fill: ([^;]+);", plots.final_losses(dataclasses.replace(report, tiers=swapped)))
    assert marks.count("var(--tier-2, #3579c0)") == 8


def test_flagged_rows_have_a_lane_an_issue_and_a_file():
    report = example()
    one_file = dataclasses.replace(report, flagged_rows=[r for r in report.flagged_rows if r.file == "damaged.jsonl"])
    lanes = re.findall(r">([^<>\n]+)</text>", plots.flagged_positions(one_file))
    assert {"exact duplicate", "near duplicate", "low information", "row number"} <= set(lanes)
    assert "exact duplicate, damaged.jsonl" in words(plots.flagged_positions(report))
    assert "row number in its file" in words(plots.flagged_positions(report))


def test_hostile_names_stay_text():
    report = example()
    rows = [FlaggedRow(i + 1, text, "$x_{1}$ " + text, 1.0, "", text) for i, text in enumerate(NASTY)]
    named = [dataclasses.replace(report.dimensions[0], name=f"$x^2$ {text}") for text in NASTY]
    report = dataclasses.replace(report, flagged_rows=rows, dimensions=named)
    for plot in (plots.flagged_positions, plots.dimension_scores):
        root = ElementTree.fromstring(plot(report))
        assert not root.findall(".//{*}script")
        assert "$x" in words(plot(report))


def test_lengths_come_as_a_list_or_by_percent():
    report = example()
    listed = plots.length_quantiles(report)
    assert listed == {5: 21, 25: 110, 50: 240, 75: 512, 95: 1900, 99: 4100, 100: 9400}
    by_percent = dataclasses.replace(
        report, data={"rows": 1, "length_quantiles": {str(p): n for p, n in listed.items()}}
    )
    assert plots.length_quantiles(by_percent) == listed
    assert "median 240" in words(plots.row_lengths(report))
