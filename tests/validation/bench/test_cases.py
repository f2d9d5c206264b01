"""Every corruption of every kind of corpus: rows made again from the recipe alone, with the truth about each."""

from dataclasses import replace
from itertools import pairwise

import bench_world
import numpy as np
import pytest
from bench_world import tiny

from validation.bench import generations
from validation.bench.cases import HALF, Recipe, make, recipes
from validation.bench.corpora import CORPORA, Corpus
from validation.bench.corruptions import CORRUPTIONS, NotApplicable
from validation.bench.domain import TooSmall, lay_out
from validation.bench.generators import ngram_generation
from validation.bench.rows import Rows

KINDS = ("text", "table", "series")
APPLICABLE = [(kind, name) for kind in KINDS for name, corruption in CORRUPTIONS.items() if kind in corruption.kinds]
# Where rows stay in their place, those changed at a smaller share are among those changed at a larger one.
IN_PLACE = {
    *("lower case", "templates", "shuffle words", "random words", "label noise", "break correlation", "random cells"),
    *("shuffle time", "stuck", "noise", "smooth", "sines"),
}
ALL_BAD = {"copula", *(name for name in CORRUPTIONS if name.startswith("replace by"))}
NONE_BAD = {name for name, corruption in CORRUPTIONS.items() if corruption.harmless or name.startswith("drop ")}
pytestmark = pytest.mark.usefixtures("small", "quick_writer")


@pytest.fixture
def quick_writer(monkeypatch):
    """What the model would write, n-grams of another seed write: chains of both writers are made alike."""

    def generate(documents, *, steps, seed, **options):
        return ngram_generation(documents, seed=seed + 500, **options)

    monkeypatch.setattr(generations, "model_generation", generate)


@pytest.fixture(scope="session")
def chains(tmp_path_factory):
    """Generations that the cases of one run share."""
    return tmp_path_factory.mktemp("chains")


def made(kind, name, strength, seed, folder):
    return make(Recipe(f"tiny {kind}", name, strength, seed), tiny(kind), folder)


def all_strengths(kind, name, folder):
    return [made(kind, name, strength, 0, folder) for strength in CORRUPTIONS[name].strengths]


@pytest.mark.parametrize(("kind", "name"), APPLICABLE)
def test_every_corruption_makes_rows_and_knows_which_are_bad(kind, name, chains):
    domain = tiny(kind)
    pool = set(domain.pool.cells)
    base = len(domain.draw(domain.pool, domain.tokens, 0))
    for case in all_strengths(kind, name, chains):
        assert (case.rows.kind, case.rows.columns) == (kind, domain.pool.columns)
        assert {len(cells) for cells in case.rows.cells} == {len(domain.pool.columns)}
        assert case.bad.dtype == bool
        assert case.bad.shape == (len(case.rows),)
        assert len(case.rows) > 0.3 * base * (0.5 if case.half else 1)
        size = domain.sizes(case.rows).sum() / domain.tokens / (0.5 if case.half else 1)
        assert 0.6 < size < (5 if name.startswith("accumulate") else 2)
        if not CORRUPTIONS[name].harmless:
            assert {cells for cells, bad in zip(case.rows.cells, case.bad, strict=True) if not bad} <= pool
        if name in NONE_BAD:
            assert not case.bad.any()
        elif name in ALL_BAD:
            assert case.bad.all()
        else:
            assert case.bad.any()
            assert not case.bad.all() or case.recipe.strength == 1 or name == "tail cut"  # every row may lose a word


@pytest.mark.parametrize(("kind", "name"), APPLICABLE)
def test_a_recipe_makes_the_same_rows_again(kind, name, tmp_path):
    strength = CORRUPTIONS[name].strengths[-1] if not CORRUPTIONS[name].written else CORRUPTIONS[name].strengths[0]
    first, again = (made(kind, name, strength, 0, tmp_path / folder) for folder in ("a", "b"))
    assert first.rows == again.rows
    assert first.bad.tolist() == again.bad.tolist()
    assert first.fingerprint() == again.fingerprint()
    other = made(kind, name, strength, 1, tmp_path / "a")
    assert other.fingerprint() != first.fingerprint()


@pytest.mark.parametrize(("kind", "name"), APPLICABLE)
def test_a_stronger_case_is_a_worse_one(kind, name, chains):
    cases = all_strengths(kind, name, chains)
    shares = [case.bad.mean() for case in cases]
    assert shares == sorted(shares)
    if name not in NONE_BAD | ALL_BAD and name != "tail cut":
        assert len(set(shares)) == len(shares)
    if name in IN_PLACE:
        np.testing.assert_allclose(shares, CORRUPTIONS[name].strengths, atol=0.08)
        for weak, strong in pairwise(cases):
            together = min(len(weak.bad), len(strong.bad))
            assert together > 0.9 * len(weak.bad)
            assert (weak.bad[:together] <= strong.bad[:together]).all()
            for row in np.flatnonzero(~strong.bad[:together]):
                assert weak.rows.cells[row] == strong.rows.cells[row]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_bad_but_the_first(kind, chains):
    for case in all_strengths(kind, "duplicates", chains):
        seen = set()
        for cells, bad in zip(case.rows.cells, case.bad, strict=True):
            assert bad == (cells in seen)
            seen.add(cells)
        assert len(case.rows) / len(seen) == pytest.approx(case.recipe.strength, rel=0.1)


def test_text_damage_leaves_the_label_and_label_noise_the_text(chains):
    pool = dict(tiny("text").pool.cells)
    for name in ("templates", "shuffle words", "random words", "lower case"):
        case = made("text", name, CORRUPTIONS[name].strengths[-1], 0, chains)
        assert {label for _, label in case.rows.cells} <= set(bench_world.CLASSES)
    case = made("text", "label noise", 0.4, 0, chains)
    assert all((pool[text] != label) == bad for (text, label), bad in zip(case.rows.cells, case.bad, strict=True))


def test_damaged_rows_are_no_rows_of_the_corpus(chains):
    for kind, name in APPLICABLE:
        corruption = CORRUPTIONS[name]
        if corruption.harmless or corruption.written or name in NONE_BAD | {"duplicates"}:
            continue
        case = made(kind, name, corruption.strengths[-1], 0, chains)
        known = set(bench_world.READERS[kind]().cells)
        bad = [cells in known for cells, is_bad in zip(case.rows.cells, case.bad, strict=True) if is_bad]
        assert np.mean(bad) < 0.1, (kind, name)


def test_harmless_rewriting_changes_rows_and_marks_none(chains):
    for name in ("paraphrase", "reformat", "spell numbers"):
        case = made("text", name, 1.0, 0, chains)
        changed = [cells not in set(tiny("text").pool.cells) for cells in case.rows.cells]
        assert np.mean(changed) > 0.7
        assert not case.bad.any()


def test_resamples_are_other_rows_and_half_a_case_half_of_one(chains):
    domain = tiny("text")
    whole = [made("text", "resample", 1.0, seed, chains) for seed in (0, 1, 2)]
    halves = [made("text", HALF, 0.5, seed, chains) for seed in (0, 1)]
    assert len({frozenset(case.rows.cells) for case in whole + halves}) == 5
    for case in whole + halves:
        assert len(set(case.rows.cells)) == len(case.rows)
        share = domain.sizes(case.rows).sum() / domain.tokens
        assert share == pytest.approx(0.5 if case.half else 1, rel=0.1)
        assert case.half == (case.recipe.corruption == HALF)


def test_mixtures_are_of_fresh_real_rows_and_of_written_ones_in_random_order(chains):
    domain = tiny("text")
    written = made("text", "replace by n-gram", 1.0, 0, chains)
    read = made("text", "accumulate by model", 1.0, 0, chains)
    read = {cells for cells, bad in zip(read.rows.cells, read.bad, strict=True) if not bad}
    for case in all_strengths("text", "mix with n-gram, generation 1", chains):
        real = [cells for cells, bad in zip(case.rows.cells, case.bad, strict=True) if not bad]
        drawn = [cells for cells, bad in zip(case.rows.cells, case.bad, strict=True) if bad]
        assert set(drawn) <= set(written.rows.cells)
        assert not set(real) & read  # rows that the generation has learnt are not handed on as real ones
        places = np.flatnonzero(case.bad) / len(case.bad)
        assert abs(places.mean() - 0.5) < 0.3
        share = domain.sizes(Rows("text", case.rows.columns, drawn)).sum() / domain.sizes(case.rows).sum()
        assert share == pytest.approx(case.recipe.strength, abs=0.04)


def test_accumulated_cases_hold_the_real_rows_and_what_came_after(chains):
    sizes = []
    for case in all_strengths("text", "accumulate by model", chains):
        real = [cells for cells, bad in zip(case.rows.cells, case.bad, strict=True) if not bad]
        assert tiny("text").sizes(Rows("text", case.rows.columns, real)).sum() >= tiny("text").tokens
        sizes.append(tiny("text").sizes(case.rows).sum() / tiny("text").tokens)
    np.testing.assert_allclose(sizes, np.add(CORRUPTIONS["accumulate by model"].strengths, 1), rtol=0.1)
    subsamples = all_strengths("text", "subsample by model", chains)
    np.testing.assert_allclose(
        [tiny("text").sizes(case.rows).sum() / tiny("text").tokens for case in subsamples], 1, 0.1
    )


@pytest.mark.parametrize(
    ("rows", "name", "reason"),
    [
        (
            [f"{name} sings about boats, aged ten, by the sea." for name in bench_world.NAMES] * 9,
            "spell numbers",
            "0% can",
        ),
        ([f"{name} 11 22 33 44 5 66 77 88 99" for name in bench_world.NAMES] * 9, "paraphrase", "0% can"),
    ],
)
def test_a_corruption_that_can_hardly_change_the_rows_is_named(rows, name, reason, tmp_path):
    domain = lay_out("stiff", Rows("text", ("text",), [(f"{row} {number}x",) for number, row in enumerate(rows)]))
    strength = CORRUPTIONS[name].strengths[0]
    with pytest.raises(NotApplicable, match=rf"case stiff/{name}/{strength:g}/0: .* of the rows .*{reason}"):
        make(Recipe("stiff", name, strength, 0), domain, tmp_path)


def test_half_a_case_of_too_little_is_refused(monkeypatch, chains):
    monkeypatch.setattr("validation.bench.domain.FEWEST_TOKENS", tiny("text").tokens // 2 + 1)
    with pytest.raises(TooSmall, match="tiny text"):
        made("text", HALF, 0.5, 0, chains)
    assert len(made("text", "resample", 1.0, 0, chains).rows)


def test_the_fingerprint_of_a_case_knows_its_corpus_its_rows_and_which_are_bad(chains):
    case = made("text", "templates", 0.5, 0, chains)
    flipped = case.bad.copy()
    flipped[-1] = not flipped[-1]
    changed = Rows("text", case.rows.columns, [*case.rows.cells[:-1], ("other", "sea")])
    cases = [case, replace(case, bad=flipped), replace(case, rows=changed), replace(case, corpus="another")]
    assert len({case.fingerprint() for case in cases}) == 4
    assert replace(case, rows=replace(case.rows, cells=list(case.rows.cells))).fingerprint() == case.fingerprint()


def test_recipes_of_all_corpora_have_names_of_their_own_and_are_enough():
    found = [recipe for corpus in CORPORA.values() for recipe in recipes(corpus)]
    assert len({recipe.id for recipe in found}) == len(found) >= 400
    for corpus in CORPORA.values():
        mine = {recipe.corruption for recipe in recipes(corpus)}
        assert {recipe.corpus for recipe in recipes(corpus)} == {corpus.name}
        assert {"resample", HALF, "duplicates"} <= mine
        for name, corruption in CORRUPTIONS.items():
            fits = corpus.kind in corruption.kinds and (corpus.label is not None or not corruption.labelled)
            assert (name in mine) == fits


@pytest.mark.parametrize("label", ["label", None])
def test_corruptions_of_classes_need_some(label):
    corpus = Corpus("a", "text", "made by the test", "generated", bench_world.text_rows, label)
    names = {recipe.corruption for recipe in recipes(corpus)}
    assert ("label noise" in names) == ("drop modes" in names) == (label is not None)
    assert "copula" not in names


def test_a_recipe_is_named_by_what_makes_it_and_strengths_share_their_number():
    recipe = Recipe("wikitext-2", "duplicates", 5.0, 0)
    assert recipe.id == "wikitext-2/duplicates/5/0"
    assert Recipe("a", "templates", 0.05, 2).id == "a/templates/0.05/2"
    assert recipe.number == recipe._replace(strength=10.0).number
    others = [recipe._replace(**change) for change in ({"corpus": "a"}, {"corruption": "templates"}, {"seed": 1})]
    assert len({each.number for each in (recipe, *others)}) == 4
