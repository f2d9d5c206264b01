"""A corpus laid out: disjoint parts, a tokenizer that never saw what is held out, targets in their true groups."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import bench_world
import numpy as np
import pytest
from bench_world import READERS, tiny

from atlas_jax.data import train_bpe
from validation.bench import domain as domains
from validation.bench.domain import TooSmall, lay_out
from validation.bench.rows import Rows
from validation.bench.training import LENGTH

KINDS = ["text", "table", "series"]
pytestmark = pytest.mark.usefixtures("small")


def read_back(domain, windows, counted):
    """The stream of windows as (token, window, place) of every target, row by row; the first token has no place."""
    places = [(int(token), at) for token, at in zip(windows[:, 1:][counted], np.argwhere(counted), strict=True)]
    rows, row = [], [(int(windows[0, 0]), None)]
    for token, at in places:
        if len(row) == 1 and row[0][0] == domain.tokenizer.eos:
            rows, row = [*rows, row], []
        row.append((token, tuple(at.tolist())))
        if token == domain.tokenizer.eos:
            rows, row = [*rows, row], []
    return rows if not row else [*rows, row]


def marked(places, shape):
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.mark.parametrize("kind", KINDS)
def test_three_disjoint_parts_cover_the_corpus(kind):
    domain, rows = tiny(kind), READERS[kind]()
    parts = (domain.held_out, domain.trusted, domain.pool)
    assert all(part.kind == kind and part.columns == rows.columns for part in parts)
    together = [cells for part in parts for cells in part.cells]
    assert len(set(together)) == len(together) == len(rows)  # the rows of the corpora are distinct
    assert set(together) == set(rows.cells)
    held, trusted, pool = (int(domain.sizes(part).sum()) for part in parts)
    assert held == pytest.approx(0.1 * (held + trusted + pool), rel=0.15)
    assert trusted == pytest.approx(pool, rel=0.1)
    assert domain.tokens == pytest.approx(pool / 2, rel=0.1)  # counted by two tokenizers
    # Random rows: none of the parts is a run of the corpus.
    for part in parts:
        places = np.array([rows.cells.index(cells) for cells in part.cells])
        assert abs(places.mean() / len(rows) - 0.5) < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_equal_corpora_are_laid_out_alike(kind):
    first, again = tiny(kind), lay_out(f"tiny {kind}", READERS[kind](), label=bench_world.LABELS[kind])
    assert replace(first, tokenizer=again.tokenizer) == again
    assert first.tokenizer.fingerprint() == again.tokenizer.fingerprint()
    np.testing.assert_array_equal(first.measured.windows, again.measured.windows)
    assert first.fingerprint == READERS[kind]().fingerprint()
    assert lay_out("other", READERS[kind](seed=1)).fingerprint != first.fingerprint


def test_the_tokenizer_never_saw_what_is_held_out_nor_the_cases():
    domain = tiny("text")
    assert domain.tokenizer.fingerprint() == train_bpe(domain.trusted.texts(), domains.VOCABULARY).fingerprint()
    whole = train_bpe(READERS["text"]().texts(), domains.VOCABULARY)
    assert whole.fingerprint() != domain.tokenizer.fingerprint()


def test_what_is_held_out_and_a_case_are_limited(monkeypatch):
    monkeypatch.setattr(domains, "HELD_OUT_TOKENS", 500)
    rows = READERS["text"]()
    domain = lay_out("limited", rows, tokens=1000)
    longest = max(domain.sizes(rows))
    assert 500 - 100 <= domain.sizes(domain.held_out).sum() <= 500 + longest + 100  # counted by two tokenizers
    assert domain.tokens == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_texts_cell_by_cell(kind):
    domain = tiny(kind)
    documents = domain.encode(domain.pool)
    assert [domain.tokenizer.decode(document) for document in documents] == domain.pool.texts()
    assert domain.sizes(domain.pool).tolist() == [len(document) + 1 for document in documents]
    if kind == "table":  # a separator stands at the beginning of a token or nowhere
        pieces = {domain.tokenizer.decode([token]) for document in documents for token in document.tolist()}
        assert not [piece for piece in pieces if "\t" in piece[1:]]
    if kind == "series":  # one token a value, so that models see numbers and not digits
        assert np.median([len(document) for document in documents]) == len(domain.pool.columns)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_windows_hold_the_held_out_rows(kind):
    domain = tiny(kind)
    measured = domain.measured
    assert measured.windows.shape[1] == LENGTH + 1
    assert measured.counted.shape == (len(measured.windows), LENGTH)
    assert measured.counted.sum() == domain.sizes(domain.held_out).sum() - 1
    rows = read_back(domain, measured.windows, measured.counted)
    texts = [domain.tokenizer.decode([token for token, _ in row]) for row in rows]
    assert texts == domain.held_out.texts()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_is_the_rarest_decile_of_words(kind):
    """Words are counted anew: tokens between borders, where a letter or digit meets no other one."""
    domain = tiny(kind)
    pieces = [domain.tokenizer.decode([token]) or " " for token in range(domain.tokenizer.vocab_size)]

    def words(stream):
        """(tokens of the word, number of them) in order."""
        found, word = [], [stream[0]]
        for before, token in pairwise(stream):
            if not pieces[before][-1].isalnum() or not pieces[token][0].isalnum():
                found, word = [*found, tuple(word)], []
            word.append(token)
        return [*found, tuple(word)]

    def stream(*parts):
        eos = [domain.tokenizer.eos]
        return [t for part in parts for document in domain.encode(part) for t in [*document.tolist(), *eos]]

    counts = Counter(words(stream(domain.trusted, domain.pool)))
    frequency = np.array([counts[word] for word in words(stream(domain.held_out)) for _ in word][1:])
    bar = np.sort(frequency)[int(np.ceil(0.1 * len(frequency))) - 1]
    tail, counted = domain.measured.groups["tail"], domain.measured.counted
    np.testing.assert_array_equal(tail[counted], frequency <= bar)
    assert not tail[~counted].any()
    assert 0.1 <= tail.sum() / counted.sum() < 0.2
    assert frequency[tail[counted]].max() < frequency[~tail[counted]].min()


def test_groups_of_a_table_are_its_columns_and_classes():
    domain = tiny("table")
    measured = domain.measured
    places = {}
    for row in read_back(domain, measured.windows, measured.counted):
        texts, own = [""], []
        for token, place in row:
            piece = domain.tokenizer.decode([token])
            texts += [""] * piece.startswith("\t")
            texts[-1] += piece.removeprefix("\t")
            own.append((place, f"column {bench_world.TABLE[len(texts) - 1]}" if piece else None))
        for place, column in own:
            places.setdefault(f"region = {texts[2]}", []).append(place)
            places.setdefault(column, []).append(place)
    places = {name: [place for place in found if place is not None] for name, found in places.items()}
    ends = places.pop(None)  # the end of a row belongs to no column
    assert len(ends) == len(domain.held_out)
    for names in (bench_world.CLASSES, bench_world.TABLE):
        mine = [found for name, found in places.items() if name.split()[-1] in names]
        assert sum(map(len, mine)) == measured.counted.sum() - len(ends) * (names is bench_world.TABLE)
    expected = {name for name, found in places.items() if len(found) >= domains.GROUP_TOKENS}
    assert expected == set(measured.groups) - {"tail"}
    assert len([name for name in expected if name.startswith("column")]) == 4
    for name in expected:
        np.testing.assert_array_equal(measured.groups[name], marked(places[name], measured.counted.shape), name)


def test_groups_of_a_text_are_its_label_and_its_classes():
    domain = tiny("text")
    measured = domain.measured
    assert set(measured.groups) == {"tail", "column label", *(f"label = {name}" for name in bench_world.CLASSES)}
    labels, classes = [], {name: [] for name in bench_world.CLASSES}
    for row in read_back(domain, measured.windows, measured.counted):
        text, label = domain.tokenizer.decode([token for token, _ in row]).split("\t")
        seen = ""
        for token, place in row:
            seen += domain.tokenizer.decode([token])
            if place is not None:
                classes[label].append(place)
                if len(seen) > len(text) and token != domain.tokenizer.eos:  # the label with its tab
                    labels.append(place)
    shape = measured.counted.shape
    np.testing.assert_array_equal(measured.groups["column label"], marked(labels, shape))
    for name, places in classes.items():
        np.testing.assert_array_equal(measured.groups[f"label = {name}"], marked(places, shape), name)


def test_series_and_bare_texts_have_the_tail_alone():
    assert set(tiny("series").measured.groups) == {"tail"}
    text = tiny("text")
    bare = Rows("text", ("text",), [cells[:1] for cells in text.held_out.cells])
    assert set(replace(text, held_out=bare, label=None).measured.groups) == {"tail"}


def test_groups_need_enough_targets_and_classes_must_be_few(monkeypatch):
    table = tiny("table")
    sizes = {name: int(mask.sum()) for name, mask in table.measured.groups.items()}
    bar = sorted(size for name, size in sizes.items() if name != "tail")[3]
    monkeypatch.setattr(domains, "GROUP_TOKENS", bar)
    kept = {name for name, size in sizes.items() if size >= bar} | {"tail"}
    assert set(replace(table).measured.groups) == kept
    monkeypatch.setattr(domains, "GROUP_TOKENS", 1)
    monkeypatch.setattr(domains, "MOST_CLASSES", 3)
    assert set(replace(table).measured.groups) == {"tail", *(f"column {name}" for name in bench_world.TABLE)}


def test_training_windows_hold_the_tokens_of_the_rows():
    domain = tiny("text")
    rows = domain.draw(domain.pool, 1500, 3)
    windows = domain.windows(rows)
    assert windows.dtype == np.int32
    assert windows.shape == ((domain.sizes(rows).sum() - 1) // LENGTH, LENGTH + 1)  # whole windows only
    np.testing.assert_array_equal(windows[:-1, -1], windows[1:, 0])
    stream = [*windows[:, :-1].reshape(-1).tolist(), int(windows[-1, -1])]
    documents = " ".join(map(str, stream)).split(f" {domain.tokenizer.eos} ")
    known = Counter(" ".join(map(str, document)) for document in domain.encode(rows))
    assert not Counter(documents[:-1]) - known
    assert any(document.startswith(documents[-1].removesuffix(f" {domain.tokenizer.eos}")) for document in known)
    assert len(documents) > 0.9 * len(rows)
    given = [" ".join(map(str, document)) for document in domain.encode(rows)]
    assert documents[:20] != given[:20]  # neighbours in a file do not stay neighbours
    np.testing.assert_array_equal(windows, domain.windows(rows))


def test_training_windows_are_no_more_than_a_case_and_no_fewer_than_one():
    domain = tiny("text")
    assert domain.windows(domain.pool).shape == (domain.tokens // LENGTH, LENGTH + 1)
    row = domain.pool.take([0])
    (window,) = domain.windows(row)
    (document,) = domain.encode(row)
    assert window[: len(document)].tolist() == document.tolist()
    assert (window[len(document) :] == domain.tokenizer.eos).all()


def test_a_draw_is_random_rows_of_about_so_many_tokens():
    domain = tiny("text")
    drawn = domain.draw(domain.pool, 1000, [4, 2])
    assert drawn == domain.draw(domain.pool, 1000, [4, 2])
    assert set(drawn.cells) != set(domain.draw(domain.pool, 1000, [4, 3]).cells)
    assert len(set(drawn.cells)) == len(drawn)
    assert set(drawn.cells) < set(domain.pool.cells)
    sizes = domain.sizes(drawn)
    assert sizes[:-1].sum() < 1000 <= sizes.sum()
    everything = domain.draw(domain.pool, 10**9, 0)
    assert everything.cells != domain.pool.cells
    assert sorted(everything.cells) == sorted(domain.pool.cells)


def test_half_a_case_of_the_same_corpus():
    domain = tiny("text")
    half = domain.halved()
    assert half == replace(domain, tokens=domain.tokens // 2)
    assert len(half.windows(half.pool)) == domain.tokens // 2 // LENGTH


def test_half_a_case_that_is_too_small_is_refused(monkeypatch):
    domain = tiny("table")
    monkeypatch.setattr(domains, "FEWEST_TOKENS", domain.tokens // 2 + 1)
    with pytest.raises(TooSmall, match=rf"tiny table: {domain.tokens // 2:,} tokens, .* {domain.tokens // 2 + 1:,}"):
        domain.halved()


def test_cases_of_too_few_rows_are_refused(monkeypatch):
    domain, rows = tiny("table"), READERS["table"]()
    half_of_pool = len(domain.pool) // 2
    monkeypatch.setattr(domains, "FEWEST_ROWS", half_of_pool)
    assert lay_out("enough", rows).tokens == domain.tokens
    with pytest.raises(TooSmall, match=rf"half a case of tiny table: about \d+ rows, expected at least {half_of_pool}"):
        domain.halved()
    monkeypatch.setattr(domains, "FEWEST_ROWS", half_of_pool + 2)
    with pytest.raises(TooSmall, match=rf"a case of few: about \d+ rows, expected at least {half_of_pool + 2}"):
        lay_out("few", rows)


@pytest.mark.parametrize("count", [60, 1, 0])
def test_a_corpus_that_is_too_small_is_named(count):
    rows = READERS["text"]().take(range(count))
    with pytest.raises(TooSmall, match=r"short.*tokens in.*rows, expected at least 2,") as caught:
        lay_out("short", rows)
    found = int(str(caught.value).split(": ")[1].split(" tokens")[0].replace(",", ""))
    assert 10 * count <= found <= 40 * count  # the tokens there are


def test_the_size_that_a_refusal_asks_for_is_enough():
    rows = READERS["text"]()
    with pytest.raises(TooSmall) as caught:
        lay_out("short", rows.take(range(60)))
    needed = int(str(caught.value).split("at least ")[1].replace(",", ""))
    sizes = np.cumsum(tiny("text").sizes(rows))
    lay_out("enough", rows.take(range(int(np.searchsorted(sizes, 1.1 * needed)))))  # counted by another tokenizer
