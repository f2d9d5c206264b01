"""The page: well-formed, self-contained, whole or absent, and with the numbers of the table."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_summary import Bench

from validation.bench import page, plots
from validation.bench.corpora import CORPORA
from validation.bench.page import write_page
from validation.bench.plots import level_words, strength_words
from validation.bench.summary import harm_by_strength, labelled, tail_against_mean

VOID = {"meta", "br", "link", "img", "input", "hr"}
# Two corpora that this version knows by kind, and one that it does not.
TEXTS, TABLES, STRANGE = ("wikitext-2", "alpaca", "stories"), ("adult", "diamonds"), "<i>strange & new</i>"


class Page(HTMLParser):
    """Tags, ids and visible text; raises where tags do not balance."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.ids, self.text, self.rows = [], [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "tr":
            self.rows.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
            if "tr" in self.open:
                self.rows[-1] += f"{data} "

    def words(self):
        return " ".join(" ".join(self.text).split())

    def row(self, start):
        """The first row of a table that begins with these words."""
        return next(words for row in self.rows if (words := " ".join(row.split())).startswith(start))


def filled(folder):
    """Rising duplicates, a tail cut that the mean hides, templates that fall, and surprises of both kinds."""
    bench = Bench(folder)
    for place, corpus in enumerate((*TEXTS, STRANGE)):
        more = place / 100
        for seed in range(3):
            bench.case(corpus, "resample", 1.0, 0.0, seed=seed, harmless=True)
        bench.case(corpus, "paraphrase", 1.0, 0.5 if place == 0 else 0.0, harmless=True)
        for strength, harm in ((2, 0.02), (5, 0.5 + more), (10, 2.0 + more)):
            bench.case(corpus, "duplicates", strength, harm)
        bench.case(corpus, "tail cut", 0.95, 0.02, tail=2.5 + more)
        for strength, harm in ((0.05, 0.9 + more), (0.2, 0.4 - more)):
            bench.case(corpus, "templates", strength, harm)
        bench.control(corpus, 122_880, [[5.9, 6.0, 6.1]] * 4)
    for corpus in TABLES:
        bench.case(corpus, "copula", 1.0, 0.3, kind="table", groups={("C2", "column price"): 0.4, ("C3", "loss"): 0.1})
        bench.case(corpus, "new damage", 7.0, 0.001, kind="table")
    bench.case(TABLES[0], "copula", 0.5, kind="table")
    return bench.table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def source(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "deep" / "bench.html"
    write_page(table, out)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(source):
    return Page(source)


def test_the_page_is_well_formed_with_unique_ids(read):
    assert len(read.ids) == len(set(read.ids))
    assert read.tags.count("h1") == 1
    assert {"harm", "corpus", "tail", "strength", "surprises", "corpora", "time"} <= set(read.ids)


def test_every_link_leads_to_a_section(source, read):
    anchors = set(re.findall(r'<a [^>]*href="#([^"]+)"', source))
    assert len(anchors) > 6
    assert anchors <= set(read.ids)


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(source, read):
    assert "script" not in read.tags
    assert "default-src 'none'" in source
    assert set(re.findall(r"https?://[^\s\"'<]+", source)) <= {"http://www.w3.org/2000/svg"}
    assert not re.findall(r'(?:src|href)="(?!#)', source)
    assert "@import" not in source


def test_the_headline_counts_the_labels(table, read):
    status = table.status()
    assert status == {"clean": 17, "collapsing": 23, "grey": 4, "pending": 1}
    assert "23 of 44 cases collapse a model, 17 are clean, 4 ( 9.1 % ) lie in the grey band." in " ".join(
        re.sub(r"([()])", r" \1 ", read.words()).split()
    )
    assert "1 without a label yet" in read.words()


def test_false_alarms_on_clean_data_stand_with_their_interval(read):
    words = read.words()
    assert "0 of 12 resamples labelled collapsing; 95 %: 0 % to 24 %" in words
    assert "1 of 16 labelled collapsing" in words


def test_the_numbers_of_a_corruption_are_in_its_row(read):
    row = read.row("duplicates ×10")
    assert "+2.015" in row
    assert "100 % 0 % 0 %" in row


def test_a_trend_that_falls_is_named_with_its_strengths(read):
    row = read.row("templates C1")
    assert "falls" in row
    assert "5 % to 20 %: −0.530, p =" in row
    assert "rises" in read.row("duplicates C1")


def test_surprises_of_both_kinds_are_listed_by_id(read):
    words = read.words()
    harmless, damaged = words.index("Meant to be harmless"), words.index("Damaged, and clean")
    assert harmless < words.index("wikitext-2/paraphrase/1/0") < damaged
    assert damaged < words.index("adult/new damage/7/0", damaged)
    assert read.row("new damage · 7").startswith("new damage · 7 2 of 2 100 % +0.001")


def test_corpora_stand_with_licence_spread_and_bar(read):
    row = read.row("wikitext-2 text")
    assert CORPORA["wikitext-2"].licence in row
    assert CORPORA["wikitext-2"].source in row
    assert row.endswith("123k 0.010 0.050")
    assert "1 –" in " ".join(read.row("adult table").split())  # a pending case, and no controls


def test_names_are_escaped_and_corpora_of_other_versions_say_so(source, read):
    assert STRANGE not in source
    assert STRANGE in read.words()
    assert "unknown to this version" in read.row(f"{STRANGE} text")


def test_the_heat_map_shows_the_strongest_only(source, read):
    titles = re.findall(r'title="wikitext-2, ([^"]*)"', source)
    assert [title.split(":")[0] for title in titles if title.startswith(("duplicates", "templates"))] == [
        "duplicates · ×10",
        "templates · 20 %",
    ]
    assert any(title.startswith("tail cut · 95 %: +0.020 bits, collapsing") for title in titles)


def test_red_grows_with_harm_and_begins_at_the_bar(tmp_path):
    bench = Bench(tmp_path)
    for place, harm in enumerate((-0.5, 0.049, 0.051, 0.3, 2.9, 40.0)):
        bench.case(f"c{place}", "duplicates", 5, harm)
    ((_, columns, rows),) = page._heat_maps(bench.table)
    assert columns == ["duplicates · ×5"]
    red = [cells[0].red for _, cells in rows]
    assert red[:2] == [0, 0]
    assert 0 < red[2] < red[3] < red[4] <= red[5] == page.DEEPEST
    assert [cells[0].harm for _, cells in rows] == ["−.50", ".05", ".05", ".30", "2.9", "40"]


@pytest.mark.parametrize(
    ("corruption", "strength", "words"),
    [
        ("duplicates", 5.0, "duplicates · ×5"),
        ("replace by model", 3.0, "replace by model · g3"),
        ("tail cut", 0.95, "tail cut · 95 %"),
        ("copula", 0.5, "copula · 50 %"),
        ("resample", 1.0, "resample"),
        ("resample, half the size", 0.5, "resample, half the size"),
        ("of another version", 0.25, "of another version · 0.25"),
    ],
)
def test_strengths_have_their_unit(corruption, strength, words):
    assert level_words(corruption, strength) == words
    assert words.endswith(strength_words(corruption, strength))


def test_plots_hold_every_level_in_the_colour_of_its_commonest_label(table):
    harms = harm_by_strength(table, "text")
    svg = plots.harm_plot(harms, [0.05, 0.07], 3.0)
    for words in (
        "duplicates · ×2",
        "×5",
        "×10",
        "tail cut · 95 %",
        "templates · 5 %",
        "paraphrase · 100 %",
        "resample",
    ):
        assert f">{words}<" in svg
    assert "duplicates · ×5" not in svg  # the name stands once
    assert "var(--fail" in svg
    assert "var(--pass" in svg
    only_clean = plots.harm_plot([h for h in harms if h.corruption == "resample"], [0.05], 3.0)
    assert "var(--fail" not in only_clean
    points = len(tail_against_mean(table))
    assert f"of {points} cases" in plots.tail_plot(tail_against_mean(table))
    assert f"of {points} cases" in plots.distance_plot(labelled(table))


def test_there_is_nothing_to_draw_without_cases():
    assert plots.harm_plot([], [], 1.0) is plots.tail_plot([]) is plots.distance_plot([]) is None


def test_an_empty_table_gives_a_page_that_says_so(tmp_path):
    write_page(Bench(tmp_path / "table").table, tmp_path / "page.html")
    read = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "No case is labelled yet. The table is empty" in read.words()
    assert "svg" not in read.tags


def test_cases_that_wait_are_counted(tmp_path):
    bench = Bench(tmp_path / "table")
    bench.case("adult", "resample", 1.0, kind="table", harmless=True)
    write_page(bench.table, tmp_path / "page.html")
    words = Page((tmp_path / "page.html").read_text(encoding="utf-8")).words()
    assert "No case is labelled yet. 1 case of the table waits for a label" in words


def test_one_label_is_enough_for_a_page(tmp_path):
    bench = Bench(tmp_path / "table")
    bench.case("adult", "resample", 1.0, 0.0, kind="table", harmless=True)
    write_page(bench.table, tmp_path / "page.html")
    words = Page((tmp_path / "page.html").read_text(encoding="utf-8")).words()
    assert "0 of 1 cases collapse a model, 1 are clean" in words


def test_a_page_that_fails_leaves_the_earlier_one(tmp_path, monkeypatch, table):
    out = tmp_path / "page.html"
    out.write_text("earlier", encoding="utf-8")

    def full_disk(self, *_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_page(Bench(tmp_path / "table").table, out)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_page(Bench(tmp_path / "table").table, out)
    assert out.read_text(encoding="utf-8") == "earlier"


def test_the_same_table_gives_the_same_page(table, source, tmp_path):
    write_page(table, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == source
