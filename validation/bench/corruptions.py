"""Everything that can be wrong with a case, or that looks wrong and is not: what it does, at which strengths, to which kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from validation.bench import damage
from validation.bench.domain import Domain, NotApplicable
from validation.bench.generations import GENERATIONS, TOP_K, Chain, Chains, Diet, Writer, accumulated
from validation.bench.rows import Kind, Rows

WRITERS: tuple[Writer, ...] = ("n-gram", "model")
DIETS: tuple[Diet, ...] = ("accumulate", "subsample")
SHARES = (0.05, 0.2, 0.5)
LEAST_CHANGED = 0.7  # of the share that a case names: rules that fit few rows do not make the case


Made = tuple[Rows, Bool[np.ndarray, " n"]]


class Material(NamedTuple):
    """What a corruption works on."""

    domain: Domain
    chains: Chains
    base: Rows  # clean rows of the pool, as many as a case holds
    plenty: Rows  # all of the pool in random order, for what takes rows away


Make = Callable[[Material, float, int], Made]
ALL_KINDS: tuple[Kind, ...] = ("text", "table", "series")


@dataclass(frozen=True)
class Corruption:
    """One way of making a case.

    Attributes:
      name: by which recipes and results name it.
      kinds: of rows that it applies to.
      unit: of the strength.
      strengths: from weak to strong.
      make: (material, strength, seed) to rows and which of them are bad.
      seeds: cases a strength.
      harmless: whether it is meant to do no harm: real rows, or the same content in other words.
      labelled: whether it needs rows with a class.
      written: whether models wrote it: all such cases of a seed start from the same real rows, and each chain is made once.
    """

    name: str
    kinds: tuple[Kind, ...]
    unit: str
    strengths: tuple[float, ...]
    make: Make
    seeds: tuple[int, ...] = (0,)
    harmless: bool = False
    labelled: bool = False
    written: bool = False


def _resample(material: Material, strength: float, seed: int) -> Made:
    """Nothing but another draw."""
    return material.base, np.zeros(len(material.base), bool)


def _on_texts(function: Callable[[Sequence[str], float, int], tuple[list[str], Any]]) -> Make:
    """Damage that works on strings, applied to the first cell of every row."""

    def make(material: Material, strength: float, seed: int) -> Made:
        base = material.base
        texts, bad = function([cells[0] for cells in base.cells], strength, seed)
        if bad.mean() < LEAST_CHANGED * strength:
            raise NotApplicable(f"{strength:.0%} of the rows were to change, {bad.mean():.0%} can")
        cells = [(text, *row[1:]) for text, row in zip(texts, base.cells, strict=True)]
        return Rows(base.kind, base.columns, cells), bad

    return make


def _on_cells(function: Callable[[Sequence[Any], Any, int], tuple[list[Any], Any]]) -> Make:
    """Damage that works on whole rows."""

    def make(material: Material, strength: float, seed: int) -> Made:
        cells, bad = function(material.base.cells, strength, seed)
        return Rows(material.base.kind, material.base.columns, list(cells)), bad

    return make


def _duplicates(material: Material, strength: float, seed: int) -> Made:
    return _on_cells(lambda cells, factor, seed: damage.duplicates(cells, int(factor), seed))(material, strength, seed)


def _label_noise(material: Material, strength: float, seed: int) -> Made:
    column = material.base.columns.index(str(material.domain.label))
    return _on_cells(lambda cells, share, seed: damage.label_noise(cells, column, share, seed))(
        material, strength, seed
    )


def _drop_rare_rows(material: Material, strength: float, seed: int) -> Made:
    texts = [cells[0] for cells in material.plenty.cells]
    kept, _ = damage.rare_rows_dropped(texts, strength, seed)
    chosen = set(kept)
    rows = material.plenty.take([index for index, text in enumerate(texts) if text in chosen])
    return _cut(material.domain, rows, np.zeros(len(rows), bool))


def _drop_modes(material: Material, strength: float, seed: int) -> Made:
    try:
        cells, bad = damage.drop_modes(material.plenty.cells, strength, seed)
    except ValueError as error:  # too few modes to drop some and keep some
        raise NotApplicable(str(error)) from error
    return _cut(material.domain, Rows(material.base.kind, material.base.columns, cells), bad)


def _cut(domain: Domain, rows: Rows, bad: Bool[np.ndarray, " all"]) -> Made:
    """The first rows, as many as a case holds."""
    count = int(np.searchsorted(np.cumsum(domain.sizes(rows)), domain.tokens)) + 1
    return rows.take(range(min(count, len(rows)))), bad[:count]


def _on_windows(function: Callable[[Any, float, int], tuple[Any, Any]], plenty: bool = False) -> Make:
    """Damage that works on a series' numbers."""

    def make(material: Material, strength: float, seed: int) -> Made:
        rows = material.plenty if plenty else material.base
        windows, bad = function(np.array(rows.cells, np.int64), strength, seed)
        made = Rows(rows.kind, rows.columns, [tuple(map(str, window)) for window in windows.tolist()])
        return _cut(material.domain, made, bad)

    return make


def _replaced(material: Material, strength: float, seed: int, *, writer: Writer, top_k: int | None) -> Made:
    """Only what the generation of that number wrote."""
    rows = material.chains.generation(Chain(writer, top_k, "replace", seed), material.base, int(strength))
    return rows, np.ones(len(rows), bool)


def _accumulated(material: Material, strength: float, seed: int, *, writer: Writer, diet: Diet) -> Made:
    """The real rows and so many generations after them."""
    chain = Chain(writer, None, diet, seed)
    generations = [material.chains.generation(chain, material.base, number) for number in range(1, int(strength) + 1)]
    rows = accumulated(material.domain, chain, [material.base, *generations])
    real = set(material.base.cells)
    return rows, np.array([cells not in real for cells in rows.cells], bool)


def _mixed(material: Material, strength: float, seed: int, *, writer: Writer, generation: int) -> Made:
    """Real rows, and a share of tokens that a generation wrote, in random order."""
    domain = material.domain
    written = material.chains.generation(Chain(writer, None, "replace", seed), material.base, generation)
    # Real rows that the generation was not trained on.
    known = set(material.base.cells)
    fresh = material.plenty.take([i for i, cells in enumerate(material.plenty.cells) if cells not in known])
    parts = [
        domain.draw(fresh, round(domain.tokens * (1 - strength)), [seed, 3]),
        domain.draw(written, round(domain.tokens * strength), [seed, 4]),
    ]
    rows = Rows(written.kind, written.columns, [cells for part in parts for cells in part.cells])
    order = np.random.default_rng([seed, 5]).permutation(len(rows))
    return rows.take([int(row) for row in order]), order >= len(parts[0])


def _chains() -> list[Corruption]:
    found = []
    for writer in WRITERS:
        for top_k, name in ((None, writer), (TOP_K, f"{writer} top-k")):
            make = partial(_replaced, writer=writer, top_k=top_k)
            found.append(
                Corruption(
                    f"replace by {name}", ALL_KINDS, "generation", (1.0, 3.0, float(GENERATIONS)), make, written=True
                )
            )
    make = partial(_replaced, writer="long n-gram", top_k=None)
    strengths = (1.0, 3.0, float(GENERATIONS))
    found.append(Corruption("replace by long n-gram", ALL_KINDS, "generation", strengths, make, written=True))
    for diet in DIETS:
        make = partial(_accumulated, writer="model", diet=diet)
        found.append(Corruption(f"{diet} by model", ("text",), "generation", (1.0, 3.0), make, written=True))
    mixed: tuple[tuple[Writer, int], ...] = (("n-gram", 1), ("model", 1), ("model", GENERATIONS))
    for writer, generation in mixed:
        make = partial(_mixed, writer=writer, generation=generation)
        name, shares = f"mix with {writer}, generation {generation}", (0.05, 0.1, 0.2, 0.35, 0.5)
        found.append(Corruption(name, ("text",), "share", shares, make, written=True))
    return found


CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption
    for corruption in (
        Corruption("resample", ALL_KINDS, "size", (1.0,), _resample, seeds=(0, 1, 2, 3), harmless=True),
        Corruption("resample, half the size", ALL_KINDS, "size", (0.5,), _resample, seeds=(0, 1, 2), harmless=True),
        Corruption("paraphrase", ("text",), "share", (0.5, 1.0), _on_texts(damage.paraphrase), harmless=True),
        Corruption("reformat", ("text",), "share", (0.5, 1.0), _on_texts(damage.reformat), harmless=True),
        Corruption("spell numbers", ("text",), "share", (1.0,), _on_texts(damage.spell_numbers), harmless=True),
        Corruption("lower case", ("text",), "share", (0.2, 1.0), _on_texts(damage.lower_case)),
        Corruption("duplicates", ALL_KINDS, "copies", (2.0, 3.0, 5.0, 10.0), _duplicates),
        Corruption("templates", ("text",), "share", SHARES, _on_texts(damage.templates)),
        Corruption("shuffle words", ("text",), "share", (*SHARES, 1.0), _on_texts(damage.shuffle_words)),
        Corruption("random words", ("text",), "share", SHARES, _on_texts(damage.random_words)),
        Corruption("tail cut", ("text",), "share of words", (0.05, 0.1, 0.2), _on_texts(damage.rare_words_replaced)),
        Corruption("drop rare rows", ("text",), "share", (0.2, 0.5), _drop_rare_rows),
        Corruption("label noise", ("text", "table"), "share", (0.05, 0.1, 0.2, 0.4), _label_noise, labelled=True),
        Corruption("drop modes", ("text", "table"), "share", (0.2, 0.5), _drop_modes, labelled=True),
        Corruption("break correlation", ("table",), "share", (*SHARES, 1.0), _on_cells(damage.break_correlation)),
        Corruption("copula", ("table",), "correlation lost", (0.0, 0.5, 1.0), _on_cells(damage.copula)),
        Corruption("random cells", ("table",), "share", SHARES, _on_cells(damage.random_cells)),
        Corruption("shuffle time", ("series",), "share", SHARES, _on_windows(damage.shuffle_time)),
        Corruption("stuck", ("series",), "share", SHARES, _on_windows(damage.stuck)),
        Corruption("noise", ("series",), "share", SHARES, _on_windows(damage.noise)),
        Corruption("smooth", ("series",), "share", SHARES, _on_windows(damage.smooth)),
        Corruption("sines", ("series",), "share", SHARES, _on_windows(damage.sines)),
        Corruption("drop levels", ("series",), "share", (0.2, 0.5), _on_windows(damage.drop_levels, plenty=True)),
        *_chains(),
    )
}
