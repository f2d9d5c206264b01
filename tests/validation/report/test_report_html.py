"""The page: well-formed, self-contained, escaped, complete and honest about what is unknown."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import re
from html.parser import HTMLParser

import pytest
from report_example import NASTY, example, without_measurements

from validation.report import FlaggedRow, Recommendation, render_html, wording
from validation.report.html import facts

_VOID = {"meta", "br", "input", "img", "link", "hr"}


class Page(HTMLParser):
    """Tags, ids, attributes and visible text of a page; raises where tags do not balance."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


REPORTS = {
    "damaged": example(),
    "clean": example("clean.jsonl", 0.0),
    "with companion": example(companions=True),
    "without reference": example("own.jsonl", 0.0, with_control=False),
    "nothing measured": without_measurements(example()),
}


@functools.cache
def page_of(name: str) -> str:
    return render_html(REPORTS[name])


@pytest.fixture(params=REPORTS)
def case(request):
    return REPORTS[request.param], page_of(request.param)


def test_page_is_well_formed_with_unique_ids(case):
    _, source = case
    page = Page(source)
    assert len(page.ids) == len(set(page.ids))
    anchors = {value[1:] for name, value in page.attributes if name == "href"}
    assert anchors <= set(page.ids)


def test_page_asks_nothing_of_the_network(case):
    _, source = case
    page = Page(source)
    references = [v for name, v in page.attributes if name in {"src", "href", "srcset", "action", "data", "poster"}]
    assert all(value.startswith("#") for value in references)
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_policy_lets_only_the_filter_run():
    source = page_of("damaged")
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [v for name, v in Page(source).attributes if name == "content" and "default-src" in v]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_untrusted_text_is_shown_and_never_interpreted():
    report = example()
    rows = [FlaggedRow(9, NASTY[1], NASTY[0], 1.0, NASTY[0], text) for text in NASTY]
    advice = [Recommendation(1, NASTY[0], NASTY[1], 2, NASTY[0], None, None)]
    verdict = dataclasses.replace(report.verdict, summary=NASTY[0], type=NASTY[1], formula=NASTY[0])
    dimension = dataclasses.replace(
        report.dimensions[0], name=NASTY[0], question=NASTY[1], note=NASTY[0], unit=NASTY[1]
    )
    report = dataclasses.replace(
        report,
        verdict=verdict,
        dimensions=[dimension],
        flagged_rows=rows,
        flagged_counts={NASTY[0]: 7},
        recommendations=advice,
        data={**report.data, "path": f"/data/{NASTY[1]}", "files": [NASTY[0]], "tokenizer": NASTY[1]},
    )
    source = render_html(report)
    page = Page(source)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    for text in NASTY:
        assert wording.one_line(text) in page.words() or wording.one_line(text) in "".join(page.text)
    assert "{{ 7 * 7 }}" in source
    for hidden in ("\x00", "\x1b", "\u202e", "\udc80"):
        assert hidden not in source
    source.encode("utf-8")


def test_every_dimension_and_every_flagged_row_is_shown(case):
    report, source = case
    words = Page(source).words()
    for one in [report, *report.companions]:
        for dimension in one.dimensions:
            assert dimension.name in words
            assert dimension.question in words
            assert dimension.note in words
        for row in one.flagged_rows:
            assert wording.one_line(row.text).strip() in words
            assert wording.one_line(row.detail).strip() in words
        assert source.count('<tr data-issue="') == sum(len(r.flagged_rows) for r in [report, *report.companions])


def test_what_is_not_known_is_said_and_never_none_or_nan(case):
    report, source = case
    words = Page(source).words()
    assert not re.search(r"\b(None|nan|NaN|null|undefined|inf)\b", words)
    unknown = sum(dimension.passed is None for dimension in report.dimensions)
    assert f"unknown on {unknown} of {len(report.dimensions)} dimensions" in words


def test_nan_reads_as_not_measured():
    report = example()
    nan = float("nan")
    first = dataclasses.replace(report.dimensions[0], control=nan)
    tier = dataclasses.replace(report.tiers[0], spread=nan)
    data = {**report.data, "statistics": {"zipf_slope": nan}}
    words = Page(render_html(dataclasses.replace(report, dimensions=[first], tiers=[tier], data=data))).words()
    assert "0.280 to 0.340 not measured at most 0.05" in words
    assert f"{wording.number(tier.loss)} ± not measured" in words
    assert "Zipf slope not measured" in words
    assert not re.search(r"\bnan\b", words)


@pytest.mark.parametrize(("calibrated", "word"), [(False, "uncalibrated score"), (True, "calibrated")])
def test_calibration_is_stated(calibrated, word):
    report = example()
    verdict = dataclasses.replace(report.verdict, calibrated=calibrated)
    words = Page(render_html(dataclasses.replace(report, verdict=verdict))).words()
    assert word in words
    assert ("Uncalibrated" in words) is not calibrated


def test_a_pass_states_the_minimum_detectable_harm():
    words = Page(page_of("clean")).words()
    assert "PASS" in words
    assert "What this pass means 0.041 bits per token: the minimum detectable harm" in words
    words = Page(page_of("without reference")).words()
    assert "What this pass means unknown minimum detectable harm" in words
    assert "no size of harm was ruled out" in words


def test_prediction_stands_beside_what_came_of_it():
    report = example()
    words = Page(page_of("damaged")).words()
    prediction = report.scaling.prediction
    assert prediction.written in words
    assert prediction.digest in words
    assert f"Predicted {wording.number(prediction.predicted)}" in words
    assert f"Actual {wording.number(prediction.actual)}" in words
    assert f"Naive baseline {wording.number(prediction.baseline)}" in words
    assert "inside the predicted interval" in words
    assert "fits the line" in words


def test_a_changed_prediction_line_is_found_out():
    report = example()
    forged = dataclasses.replace(report.scaling.prediction, written="tier-3 loss predicted exactly", actual=9.0)
    page = Page(
        render_html(dataclasses.replace(report, scaling=dataclasses.replace(report.scaling, prediction=forged)))
    )
    assert "does not fit the line" in page.words()
    assert "outside the predicted interval" in page.words()


def test_untrained_tier_3_leaves_the_prediction_unchecked():
    report = example()
    pending = dataclasses.replace(report.scaling.prediction, actual=None, error=None)
    page = Page(
        render_html(dataclasses.replace(report, scaling=dataclasses.replace(report.scaling, prediction=pending)))
    )
    assert "the prediction is unchecked" in page.words()
    assert "Actual not measured" in page.words()


def test_recommendations_stand_in_order_with_commands_and_gains():
    words = Page(page_of("damaged")).words()
    places = [words.index(f"Priority {priority}") for priority in (1, 2, 4)]
    assert places == sorted(places)
    assert "Do first : Remove exact duplicates (3,102 rows)" in words
    assert "lowered held-out loss by 0.214 bits per token (95 % interval of the gain 0.180 to 0.250)." in words
    assert "not distinguishable from zero" in words
    assert "Gain not measured." in words
    assert "--apply repaired.jsonl --remove 'exact duplicate'" in words


def test_plots_that_have_nothing_to_show_are_left_out_with_a_reason():
    full, empty = Page(page_of("damaged")), Page(page_of("nothing measured"))
    assert full.tags.count("figure") == 6
    assert empty.tags.count("figure") == 2
    for title in ("Learning curves", "Scaling and the tier-3 prediction", "Where the flagged rows lie"):
        assert f"{title}: No " in empty.words()
    images = [dict(attributes) for attributes in _svg_attributes(page_of("damaged"))]
    assert all(one["role"] == "img" and one["aria-label"] for one in images)


def test_companion_is_compared_and_shown_whole():
    page = Page(page_of("with companion"))
    words = page.words()
    assert words.index("Side by side") < words.index("damaged.jsonl ✕ fail") < words.index("clean.jsonl ✓ pass")
    for section in ("dimensions", "plots", "actions", "rows", "scaling", "data", "models", "setup"):
        assert {f"r0-{section}", f"r1-{section}"} <= set(page.ids)
    assert "Side by side" not in Page(page_of("damaged")).words()


def test_facts_name_units_and_cut_long_lists():
    values = {
        "bytes": 12_300_000,
        "seconds": {"tier 1": 130.0},
        "files": [f"part-{i}" for i in range(25)],
        "cached": False,
        "reference": None,
    }
    lines = dict(facts(values, str, "not set"))
    assert lines["Bytes"] == "12.3 MB"
    assert lines["Seconds, tier 1"] == "2 min 10 s"
    assert lines["Files"].endswith("part-19, and 5 more")
    assert lines["Cached"] == "no"
    assert lines["Reference"] == "not set"


def _svg_attributes(source: str) -> list[list[tuple[str, str]]]:
    class Images(HTMLParser):
        found: list[list[tuple[str, str]]]

        def handle_starttag(self, tag, attrs):
            if tag == "svg":
                self.found.append([(name, value or "") for name, value in attrs])

    images = Images()
    images.found = []
    images.feed(source)
    return images.found
