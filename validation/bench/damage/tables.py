"""Tables made bad in known ways: every cell a string, "?" where it is missing.

A column is numeric where at least 90 % of the cells that are not missing read as finite numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from validation.bench.damage.choice import checked_share, chosen_rows
from validation.bench.damage.gaussian_copula import latent_correlation, order_categories, sample_ranks
from validation.bench.rows import Cells

DamagedCells = tuple[list[Cells], Bool[np.ndarray, " rows"]]

MISSING = "?"
NUMERIC_SHARE = 0.9
MAX_NUMERIC_LEVELS = 10  # A numeric column of no more distinct values may be a category's codes.
MAX_MODES = 100
MIN_ROWS_PER_LEVEL = 3  # Fewer on average: the values name rows, not modes.
MIN_MODES = 3


def label_noise(cells: Sequence[Cells], column: int, share: float, seed: int) -> DamagedCells:
    """Replaces the class by another one of that column, each of the others as likely.

    Args:
      cells: clean rows of equal length.
      column: number of the column with the class; negative numbers count from the end.
      share: of the rows, 0 to 1.
      seed: of the choice and the classes.

    Returns:
      Rows in order, and which changed.

    Raises:
      ValueError: the rows are ragged or none, the share is out of range, there is no such column, or it holds one class.
    """
    width = _width(cells)
    if not -width <= column < width:
        raise ValueError(f"column: {column}; expected the number of one of {width} columns")
    classes = sorted({row[column] for row in cells})
    if len(classes) < 2:
        raise ValueError(f"column {column}: one class, {classes[0]!r}; expected at least 2")
    rng = np.random.default_rng(seed)
    chosen = chosen_rows(np.arange(len(cells)), len(cells), share, rng)
    further = rng.integers(1, len(classes), size=len(cells))
    place = {name: number for number, name in enumerate(classes)}
    damaged = list(cells)
    for row in chosen:
        changed = list(cells[row])
        changed[column] = classes[(place[changed[column]] + further[row]) % len(classes)]
        damaged[row] = tuple(changed)
    return damaged, _mask(len(cells), chosen)


def break_correlation(cells: Sequence[Cells], share: float, seed: int) -> DamagedCells:
    """Permutes every column on its own within the chosen rows: values stay as frequent, what goes with what is lost.

    Rows join one by one and exchange each cell with a row that joined before (Sattolo's shuffle). An exchange that would
    give a changed row all its own cells back is left out, so that rows changed at a smaller share stay changed.

    Args:
      cells: clean rows of equal length.
      share: of the rows, 0 to 1; one row alone has none to exchange with.
      seed: of the choice and the permutations.

    Returns:
      Rows in order, and which changed: all chosen ones but those that got equal cells.

    Raises:
      ValueError: the rows are ragged or none, or the share is out of range.
    """
    width = _width(cells)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(cells))[: round(checked_share(share) * len(cells))]
    partners = (rng.random((len(cells), width)) * np.arange(len(cells))[:, None]).astype(np.int64)
    damaged = [list(row) for row in cells]
    foreign = [0] * len(cells)  # Cells that differ from the clean row's.
    for step, row in enumerate(order[1:], start=1):
        for column, partner in enumerate(order[partners[step]]):
            own, other = damaged[row][column], damaged[partner][column]
            clean = cells[partner][column]
            after = foreign[partner] + (own != clean) - (other != clean)
            if own == other or (foreign[partner] and not after):
                continue
            damaged[row][column], damaged[partner][column] = other, own
            foreign[row] += 1
            foreign[partner] = after
    return [tuple(row) for row in damaged], np.array(foreign) > 0


def random_cells(cells: Sequence[Cells], share: float, seed: int) -> DamagedCells:
    """Draws every cell of the chosen rows from the distinct values of its column, each as likely.

    Args:
      cells: clean rows of equal length.
      share: of the rows, 0 to 1; none where every column holds one value.
      seed: of the choice and the cells.

    Returns:
      Rows in order, and which changed; a row that came out as it was is drawn again.

    Raises:
      ValueError: the rows are ragged or none, or the share is out of range.
    """
    _width(cells)
    values = [sorted(set(column)) for column in zip(*cells, strict=True)]
    sizes = [len(distinct) for distinct in values]
    rng = np.random.default_rng(seed)
    chosen = chosen_rows(np.arange(len(cells) if max(sizes) > 1 else 0), len(cells), share, rng)
    damaged = list(cells)
    for row in chosen:
        own = np.random.default_rng([seed, row])
        while damaged[row] == cells[row]:
            drawn = own.integers(sizes)
            damaged[row] = tuple(distinct[index] for distinct, index in zip(values, drawn, strict=True))
    return damaged, _mask(len(cells), chosen)


def copula(cells: Sequence[Cells], strength: float, seed: int) -> DamagedCells:
    """A synthetic table: a Gaussian copula fitted to the rows, its correlations weakened, and sampled.

    Numbers keep their order, missing ones come first; categories, and numbers of few values, which may be codes of some,
    are ordered by what they go with. Every cell is one that occurred in its column, about as often as it occurred.

    Args:
      cells: clean rows of equal length.
      strength: what the latent correlations lose, 0 to 1: 0 is the best such copula, 1 makes columns independent.
      seed: of the sample; the same normal draws at every strength.

    Returns:
      As many rows, all marked, for none is a real one.

    Raises:
      ValueError: the rows are ragged or none, or the strength is out of range.
    """
    width = _width(cells)
    checked_share(strength, "strength")
    columns = list(zip(*cells, strict=True))
    numbers = [_numbers(column) for column in columns]
    levels = [_sorted_levels(column, found) for column, found in zip(columns, numbers, strict=True)]
    free = [
        found is None or int(order.max()) < MAX_NUMERIC_LEVELS for found, order in zip(numbers, levels, strict=True)
    ]
    levels = order_categories(levels, free)
    correlation = latent_correlation(levels)
    weakened = np.eye(width) + (1 - strength) * (correlation - np.eye(width))
    ranks = sample_ranks(weakened, len(cells), np.random.default_rng(seed))
    places = np.minimum((ranks * len(cells)).astype(np.int64), len(cells) - 1)
    drawn = []
    for column, order, place in zip(columns, levels, places.T, strict=True):
        rising = np.argsort(order, kind="stable")
        drawn.append([column[row] for row in rising[place]])
    return list(zip(*drawn, strict=True)), np.ones(len(cells), bool)


def drop_modes(cells: Sequence[Cells], share: float, seed: int) -> DamagedCells:
    """Removes whole modes until the share of the rows is gone: what remains is real, and a part of the world is missing.

    A mode is a joint value of the one or two columns that tell most about all (for a text with its class: the class);
    numbers are cut at their quartiles. Modes go in one random order, whatever the share; the last one always stays.

    Args:
      cells: clean rows of equal length.
      share: of the rows that at least go, 0 to 1; the mode that crosses it goes as a whole.
      seed: of the order.

    Returns:
      The rows that remain, in order, and a mask of no bad one.

    Raises:
      ValueError: the rows are ragged or none, the share is out of range, or there are fewer than 3 modes.
    """
    modes = _modes(cells)
    counts = np.bincount(modes)
    if len(counts) < MIN_MODES:
        raise ValueError(f"cells: {len(counts)} mode(s) in {len(cells)} rows; expected at least {MIN_MODES}")
    order = np.random.default_rng(seed).permutation(len(counts))
    gone = np.concatenate([[0], np.cumsum(counts[order])])
    needed = np.argmax(gone >= checked_share(share) * len(cells) - 1e-9)
    dropped = set(order[: min(needed, len(counts) - 1)].tolist())
    left = [row for row, mode in zip(cells, modes.tolist(), strict=True) if mode not in dropped]
    return left, np.zeros(len(left), bool)


def _width(cells: Sequence[Cells]) -> int:
    """Number of columns of rows that all have as many."""
    if not cells:
        raise ValueError("cells: no rows; expected at least one")
    width = len(cells[0])
    if not width:
        raise ValueError("cells: row 0 has no cells; expected at least one")
    for number, row in enumerate(cells):
        if len(row) != width:
            raise ValueError(f"cells: row {number} has {len(row)} cells; expected {width} as in row 0")
    return width


def _mask(count: int, chosen: Int[np.ndarray, " chosen"]) -> Bool[np.ndarray, " count"]:
    mask = np.zeros(count, bool)
    mask[chosen] = True
    return mask


def _numbers(column: Sequence[str]) -> Float[np.ndarray, " rows"] | None:
    """A numeric column as numbers, NaN where there is none; None for any other column."""
    numbers = np.array([_number(cell) for cell in column])
    given = sum(cell != MISSING for cell in column)
    found = np.isfinite(numbers).sum()
    return numbers if found and found >= NUMERIC_SHARE * given else None


def _number(cell: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        return np.nan
    return number if np.isfinite(number) else np.nan


def _sorted_levels(column: Sequence[str], numbers: Float[np.ndarray, " rows"] | None) -> Int[np.ndarray, " rows"]:
    """Distinct values numbered in the order of the numbers, what is none first, or of the names."""
    if numbers is not None:
        return np.unique(np.nan_to_num(numbers, nan=-np.inf), return_inverse=True)[1]
    place = {value: number for number, value in enumerate(sorted(set(column)))}
    return np.array([place[value] for value in column])


def _coarse_levels(column: Sequence[str]) -> Int[np.ndarray, " rows"] | None:
    """Few levels, quartiles for numbers of many values; None for a column whose values name rows."""
    distinct = len(set(column))
    numbers = _numbers(column)
    if numbers is not None and distinct > MAX_NUMERIC_LEVELS:
        edges = np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75]))
        cut = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right"))
        return np.unique(cut, return_inverse=True)[1]
    if distinct > min(MAX_MODES, len(column) / MIN_ROWS_PER_LEVEL):
        return None
    return _sorted_levels(column, None)


def _modes(cells: Sequence[Cells]) -> Int[np.ndarray, " rows"]:
    """Number of every row's mode: the column, then the pair, that tells most about all columns of few levels."""
    _width(cells)
    found = [_coarse_levels(column) for column in zip(*cells, strict=True)]
    columns = [levels for levels in found if levels is not None]
    modes = np.zeros(len(cells), np.int64)
    for _ in range(min(2, len(columns))):
        joints = [np.unique(modes * (levels.max() + 1) + levels, return_inverse=True)[1] for levels in columns]
        few = [joint for joint in joints if joint.max() < MAX_MODES]
        if few:
            modes = max(few, key=lambda joint: sum(_mutual_information(joint, levels) for levels in columns))
    return modes


def _mutual_information(a: Int[np.ndarray, " rows"], b: Int[np.ndarray, " rows"]) -> float:
    """In nats, from the counts."""
    return _entropy(a) + _entropy(b) - _entropy(a * (b.max() + 1) + b)


def _entropy(levels: Int[np.ndarray, " rows"]) -> float:
    shares = np.unique(levels, return_counts=True)[1] / len(levels)
    return float(-(shares * np.log(shares)).sum())
