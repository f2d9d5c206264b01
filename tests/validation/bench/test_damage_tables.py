"""Damaged tables: what is kept, what is lost, how much of it, and where."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.bench.damage import break_correlation, copula, drop_modes, label_noise, random_cells
from validation.bench.damage.gaussian_copula import latent_correlation, order_categories


def made_table(count=600, seed=0):
    """Two numbers and two categories that hang together, and a number that goes with none."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=count)
    first, second = hidden + 0.5 * rng.normal(size=(2, count))
    kind = np.array(["low", "even", "high"])[np.digitize(hidden + 0.5 * rng.normal(size=count), [-0.6, 0.6])]
    sign = np.where(hidden + 0.5 * rng.normal(size=count) > 0, "yes", "no")
    apart = rng.integers(50, size=count)
    return [
        (f"{a:.3f}", f"{b:.1f}", k, s, str(e)) for a, b, k, s, e in zip(first, second, kind, sign, apart, strict=True)
    ]


TABLE = made_table()
CELLS = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.tuples(*[st.sampled_from(["a", "b", "c", "1", "2.5", "?", ""])] * width), min_size=1, max_size=25
    )
)
SHARE = st.floats(0, 1)
SHARES = st.tuples(SHARE, SHARE).map(sorted)
SEED = st.integers(0, 99)


def noisy_labels(cells, share, seed):
    return label_noise(cells, -1, share, seed)


IN_PLACE = [noisy_labels, break_correlation, random_cells]


def numbers(cells, column):
    return np.array([float(row[column]) for row in cells])


def correlation(cells, a=0, b=1):
    return np.corrcoef(numbers(cells, a), numbers(cells, b))[0, 1]


def association(cells, a=2, b=3):
    """Mutual information of two columns, in nats."""

    def entropy(values):
        shares = np.array(list(Counter(values).values())) / len(cells)
        return -(shares * np.log(shares)).sum()

    return sum(entropy([row[c] for row in cells]) for c in (a, b)) - entropy([(row[a], row[b]) for row in cells])


@pytest.mark.parametrize("damage", IN_PLACE)
@given(cells=CELLS, shares=SHARES, seed=SEED)
def test_the_mask_is_true_where_rows_changed_and_more_contains_less(damage, cells, shares, seed):
    if damage is noisy_labels:
        cells = [*cells, tuple("x" for _ in cells[0])]
    (some, few), (more, many) = (damage(cells, share, seed) for share in shares)
    for damaged, changed in ((some, few), (more, many)):
        assert changed.tolist() == [new != old for new, old in zip(damaged, cells, strict=True)]
    assert (few <= many).all()
    assert few.sum() <= round(shares[0] * len(cells))
    again = damage(cells, shares[1], seed)
    assert again[0] == more
    assert (again[1] == many).all()


@pytest.mark.parametrize("damage", IN_PLACE)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.35, 1.0])
def test_as_many_rows_change_as_asked_for_and_the_seed_decides_which(damage, share):
    first, other = damage(TABLE, share, 1), damage(TABLE, share, 2)
    assert first[1].sum() == other[1].sum() == round(share * len(TABLE))
    assert (first[0] == other[0]) == (share == 0)


@given(cells=CELLS, share=SHARE, seed=SEED)
def test_noise_changes_the_label_alone(cells, share, seed):
    cells = [*cells, tuple("x" for _ in cells[0])]
    noisy, changed = label_noise(cells, 0, share, seed)
    assert changed.sum() == round(share * len(cells))
    assert {row[0] for row in noisy} <= {row[0] for row in cells}
    assert [row[1:] for row in noisy] == [row[1:] for row in cells]


def test_noisy_labels_are_drawn_from_the_others_alike():
    rows = [(f"text {n}", "common") for n in range(3000)] + [("text", "a"), ("text", "b"), ("text", "c")]
    drawn = Counter(row[1] for row in label_noise(rows, 1, 1.0, 0)[0][:3000])
    assert set(drawn) == {"a", "b", "c"}
    assert min(drawn.values()) > 900


@given(cells=CELLS, share=SHARE, seed=SEED)
def test_broken_columns_keep_their_values(cells, share, seed):
    broken, changed = break_correlation(cells, share, seed)
    for column in range(len(cells[0])):
        assert Counter(row[column] for row in broken) == Counter(row[column] for row in cells)
        within = [Counter(rows[n][column] for n in np.flatnonzero(changed)) for rows in (broken, cells)]
        assert within[0] == within[1]


def test_dependence_falls_with_the_share_of_broken_rows_to_none():
    found = [correlation(break_correlation(TABLE, share, 0)[0]) for share in (0.0, 0.3, 0.6, 1.0)]
    assert found[0] > 0.75
    assert all(more - less > 0.15 for more, less in pairwise(found))
    assert abs(found[-1]) < 0.1
    assert association(break_correlation(TABLE, 1.0, 0)[0]) < 0.01
    assert association(TABLE) > 0.1


@given(cells=CELLS, share=SHARE, seed=SEED)
def test_random_cells_are_values_of_their_column(cells, share, seed):
    drawn, changed = random_cells(cells, share, seed)
    for old, new in zip(zip(*cells, strict=True), zip(*drawn, strict=True), strict=True):
        assert set(new) <= set(old)
    assert changed.sum() == (round(share * len(cells)) if len(set(cells)) > 1 else 0)


def test_random_cells_are_drawn_alike_however_rare():
    rows = [("common", str(n)) for n in range(999)] + [("rare", "0")]
    drawn = Counter(row[0] for row in random_cells(rows, 1.0, 0)[0])
    assert drawn["rare"] == pytest.approx(500, abs=60)


@given(cells=CELLS, strength=SHARE, seed=SEED)
def test_a_copula_draws_cells_of_their_column(cells, strength, seed):
    drawn, changed = copula(cells, strength, seed)
    assert len(drawn) == len(cells)
    assert changed.all()
    for old, new in zip(zip(*cells, strict=True), zip(*drawn, strict=True), strict=True):
        assert set(new) <= set(old)
    assert copula(cells, strength, seed)[0] == drawn


def test_a_copula_keeps_marginals_and_its_dependence_falls_with_the_strength():
    drawn = [copula(TABLE, strength, 0)[0] for strength in (0.0, 0.35, 0.7, 1.0)]
    for cells in drawn:
        assert numbers(cells, 0).mean() == pytest.approx(numbers(TABLE, 0).mean(), abs=0.15)
        assert numbers(cells, 0).std() == pytest.approx(numbers(TABLE, 0).std(), rel=0.1)
        assert Counter(row[2] for row in cells)["even"] == pytest.approx(
            Counter(row[2] for row in TABLE)["even"], rel=0.2
        )
    found = [correlation(cells) for cells in drawn]
    assert found[0] == pytest.approx(correlation(TABLE), abs=0.05)
    assert all(more - less > 0.15 for more, less in pairwise(found))
    assert abs(found[-1]) < 0.1
    tied = [association(cells) for cells in drawn]
    assert tied[0] == pytest.approx(association(TABLE), rel=0.3)
    assert tied[0] > tied[1] > tied[2] > tied[3]
    assert tied[3] < 0.01
    assert copula(TABLE, 0.0, 1)[0] != drawn[0]


def test_a_copula_puts_missing_numbers_somewhere():
    cells = [("?" if n % 20 == 0 else str(n), str(n)) for n in range(400)]
    drawn, _ = copula(cells, 0.0, 0)
    assert 5 < Counter(row[0] for row in drawn)["?"] < 45
    given_rows = [row for row in drawn if row[0] != "?"]
    assert correlation(given_rows) > 0.8


@pytest.mark.parametrize("cuts", [(0.0,), (-0.5, 0.8), tuple(np.linspace(-3, 3, 300))])
@pytest.mark.parametrize("true", [-0.9, -0.4, 0.0, 0.6, 0.95])
def test_correlations_behind_levels_are_found(cuts, true):
    rng = np.random.default_rng(0)
    normal = rng.multivariate_normal([0, 0], [[1, true], [true, 1]], 20_000)
    levels = [
        np.unique(np.digitize(values, edges), return_inverse=True)[1]
        for values, edges in zip(normal.T, (cuts, (0.3,)), strict=True)
    ]
    assert latent_correlation(levels)[0, 1] == pytest.approx(true, abs=0.03)


def test_categories_are_ordered_by_what_they_go_with():
    rng = np.random.default_rng(0)
    number = rng.integers(200, size=2000)
    category = np.array([2, 0, 3, 1])[number // 50]  # In the order of the numbers: 2, 0, 3, 1.
    _, ordered = order_categories([number, category], [False, True])
    place = [int(ordered[category == level][0]) for level in (2, 0, 3, 1)]
    assert place in ([0, 1, 2, 3], [3, 2, 1, 0])


@given(shares=SHARES, seed=SEED)
def test_dropped_modes_are_whole_and_more_contains_less(shares, seed):
    labels = Counter(row[2] for row in LABELLED)
    few, many = (drop_modes(LABELLED, share, seed) for share in shares)
    for (left, bad), share in ((few, shares[0]), (many, shares[1])):
        assert len(bad) == len(left)
        assert not bad.any()
        counts = Counter(row[2] for row in left)
        assert all(counts[label] == labels[label] for label in counts)
        assert len(left) <= (1 - share) * len(LABELLED) + 1e-6 or len(counts) == 1
        assert [row for row in LABELLED if row[2] in counts] == left
    assert set(many[0]) <= set(few[0])
    assert drop_modes(LABELLED, shares[1], seed)[0] == many[0]


LABELLED = [(f"text {n}", "all", "abcdefg"[(n * n) % 7]) for n in range(200)]


def test_the_seed_decides_which_modes_go():
    assert len({tuple(drop_modes(LABELLED, 0.3, seed)[0]) for seed in range(10)}) > 2


def test_modes_of_numbers_are_quartiles():
    size = np.random.default_rng(0).permutation(400)
    cells = [(f"{n / 7:.6f}", f"{-n}") for n in size]
    for seed in range(5):
        left, _ = drop_modes(cells, 0.2, seed)
        gone = sorted({-int(row[1]) for row in set(cells) - set(left)})
        assert gone[0] % 100 == 0
        assert gone == list(range(gone[0], gone[0] + 100))


def test_modes_are_joint_values_of_the_columns_that_tell_most():
    cells = [(f"row {n}", str(n % 2), "abcd"[n // 2 % 4], "efgh"[n // 2 % 4], "ijkl"[n // 2 % 4]) for n in range(160)]
    for seed in range(5):
        left, _ = drop_modes(cells, 0.1, seed)
        gone = set(cells) - set(left)
        assert len(gone) == 20
        assert len({row[1:] for row in gone}) == 1


@pytest.mark.parametrize(
    ("cells", "count"),
    [([("text", "a"), ("more", "b")] * 9, 2), ([(f"text {n}",) for n in range(30)], 1)],
)
def test_too_few_modes(cells, count):
    with pytest.raises(ValueError, match=rf"{count} mode\(s\) in {len(cells)} rows; expected at least 3"):
        drop_modes(cells, 0.1, 0)


@pytest.mark.parametrize("damage", [*IN_PLACE, copula, drop_modes])
@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([], "no rows"),
        ([()], "row 0 has no cells"),
        ([("a", "b"), ("a", "b", "c")], "row 1 has 3 cells; expected 2 as in row 0"),
    ],
)
def test_rows_without_columns(damage, cells, reason):
    with pytest.raises(ValueError, match=reason):
        damage(cells, 0.5, 0)


@pytest.mark.parametrize("damage", [*IN_PLACE, copula, drop_modes])
@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_amounts_out_of_range(damage, share):
    with pytest.raises(ValueError, match=f"{'strength' if damage is copula else 'share'}: {share}; expected 0 to 1"):
        damage(TABLE, share, 0)


def test_labels_that_are_none():
    with pytest.raises(ValueError, match="column: 5; expected the number of one of 5 columns"):
        label_noise(TABLE, 5, 0.1, 0)
    with pytest.raises(ValueError, match="column 1: one class, 'b'"):
        label_noise([("a", "b"), ("c", "b")], 1, 0.1, 0)
