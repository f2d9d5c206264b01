"""Duplicates against brute force, row by row."""

import os
import re
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.bench.damage import duplicates as duplicated
from validation.diversity import find_duplicates
from validation.diversity.minhash import bands

SENTENCE = "the quick brown fox jumps over the lazy dog while the small cat sleeps in the warm sun all day"


def shingles(text):
    """The sets that rows are compared by, by definition: runs of 5 words, or of 5 characters under 10 words."""
    text = " ".join(text.lower().split())
    words = re.findall(r"\w+", text)
    if len(words) >= 10:
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def jaccard(left, right):
    return len(left & right) / len(left | right)


def brute_force(texts, threshold):
    """First row of each row's component, and the similar pairs."""
    sets = [shingles(text) for text in texts]
    pairs = [
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if texts[i].strip() and texts[j].strip() and jaccard(sets[i], sets[j]) >= threshold
    ]
    first = list(range(len(texts)))
    for i, j in pairs * 2:
        low, high = sorted((first[i], first[j]))
        first = [low if group == high else group for group in first]
    return np.array(first), pairs


def edited(rng, rows, count):
    """Rows, some of which are other rows with a few words changed."""
    texts = list(rows)
    while len(texts) < count:
        words = texts[rng.integers(len(texts))].split()
        for _ in range(rng.integers(0, 4)):
            words[rng.integers(len(words))] = f"w{rng.integers(1000)}"
        texts.append(" ".join(words))
    return [texts[index] for index in rng.permutation(len(texts))]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(2))
def test_components_are_those_of_brute_force(clean_rows, threshold, seed):
    rng = np.random.default_rng(seed)
    base = [row for row in clean_rows[seed::40] if len(row) < 1500][:150]
    short = ["".join(rng.choice(list("abcde "), 12)) for _ in range(50)]
    texts = edited(rng, [row for row in base + short if row.split()], 400)
    found = find_duplicates(texts, threshold=threshold, seed=seed)
    group, pairs = brute_force(texts, threshold)
    assert len(pairs) > 40
    joined = np.array([found.group[i] == found.group[j] for i, j in pairs])
    assert joined.mean() >= 0.99, "recall of pairs"
    wrong = [i for i in range(len(texts)) if group[found.group[i]] != group[i]]
    assert not wrong, "precision: no component holds rows that brute force keeps apart"
    for row in np.flatnonzero(found.near_of >= 0):
        truth = jaccard(shingles(texts[row]), shingles(texts[found.near_of[row]]))
        assert found.similarity[row] == pytest.approx(truth)


def test_exact_copies_whatever_case_and_white_space():
    texts = ["One two", "other", "one  TWO\n", "", "one two", " \n", "", "Other"]
    found = find_duplicates(texts)
    assert found.exact_of.tolist() == [-1, -1, 0, -1, 0, -1, -1, 1]
    assert found.near_of.tolist() == found.exact_of.tolist()
    assert found.group.tolist() == [0, 1, 0, 3, 0, 5, 6, 1]
    assert found.similarity.tolist() == [0, 0, 1, 0, 1, 0, 0, 1]
    assert found.empty.tolist() == [False, False, False, True, False, True, True, False]


def test_a_chain_is_one_component_named_by_its_first_row():
    words = SENTENCE.split()
    texts = [" ".join(words[start : start + 15]) for start in (0, 1, 2, 3)]
    found = find_duplicates(["unrelated words stand here alone", *texts], threshold=0.8)
    assert found.group.tolist() == [0, 1, 1, 1, 1]
    assert found.similarity.tolist() == [0, 0, 10 / 12, 9 / 13, 8 / 14]
    assert found.similarity[-1] < 0.8, "the ends of the chain are less alike than its links"


def test_short_rows_and_scripts_without_spaces():
    chinese = "今天天气很好我们一起去公园散步吧然后回家吃饭看电视"
    texts = [chinese, chinese + "。", "Yes!", "yes?", "ab", "ab.", "a completely different short row"]
    assert find_duplicates(texts).group.tolist() == [0, 0, 2, 3, 4, 5, 6]


@given(texts=st.lists(st.text(max_size=8), max_size=12))
def test_fields_agree_for_any_text(texts):
    found = find_duplicates(texts)
    rows = np.arange(len(texts))
    assert (found.group <= rows).all()
    assert (found.group[found.group] == found.group).all()
    assert (found.near_of == np.where(found.group == rows, -1, found.group)).all()
    assert ((found.similarity > 0) == (found.near_of >= 0)).all()
    copies = found.exact_of >= 0
    assert (found.group[copies] == found.group[found.exact_of[copies]]).all()
    assert [found.empty[row] for row in rows] == [not text.split() for text in texts]
    assert (found.near_of[found.empty] == -1).all()


def test_duplicates_made_on_purpose_are_all_found(clean_rows):
    rows, bad = duplicated(clean_rows[:2000], 5, seed=3)
    found = find_duplicates(rows)
    assert (found.exact_of[bad] >= 0).all()
    assert (found.exact_of[~bad] >= 0).mean() < 0.01


def test_the_result_depends_on_the_seed_alone(clean_rows):
    rows = clean_rows[:1000]
    first, second = find_duplicates(rows, seed=1), find_duplicates(rows, seed=1)
    assert (first.group == second.group).all()


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.5])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match=f"threshold: {threshold}; expected 0 < threshold <= 1"):
        find_duplicates(["a"], threshold=threshold)


def test_bands_propose_nearly_all_pairs_at_the_threshold():
    assert [bands(threshold) for threshold in (0.5, 0.8, 0.95)] == [(22, 2), (16, 5), (7, 10)]


def test_20_000_rows_of_400_bytes(clean_rows):
    rng = np.random.default_rng(0)
    words = " ".join(clean_rows).split()
    starts = rng.integers(0, len(words) - 60, 20_000)
    rows = [" ".join(words[start : start + 58]) for start in starts]
    start = time.process_time()
    find_duplicates(rows)
    assert time.process_time() - start < 12  # processor time, so that a busy machine does not count; about 2 s


def test_rows_that_a_publisher_removed():
    """Another filter's removals from machine-made text: what we name at 0.8, it removed too, nearly always."""
    folder = os.environ.get("ATLAS_DEV_DATA")
    if folder is None:
        pytest.skip("ATLAS_DEV_DATA is not set: the folder of development data sets")
    from validation.datasets import open_dataset

    data = Path(folder) / "bad_gpteacher_toolformer_dups"
    batch = next(open_dataset(data / "toolformer-dedupe-only-dataset.json").stream())
    kept = np.loadtxt(data / "kept_at.csv", delimiter=",", skiprows=1, dtype=int)
    near = find_duplicates(batch.column("text").to_pylist()).near_of >= 0
    removed = kept[:, 2] == 0
    assert near.sum() > 500
    assert removed[near].mean() > 0.95
