"""The cases: which corruption of which corpus, at which strength and seed; and their rows, made again from that alone."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from validation.bench.corpora import Corpus
from validation.bench.corruptions import CORRUPTIONS, Material
from validation.bench.domain import Domain, NotApplicable
from validation.bench.generations import Chains
from validation.bench.rows import Rows

HALF = "resample, half the size"


class Recipe(NamedTuple):
    """What makes a case, and names it."""

    corpus: str
    corruption: str
    strength: float
    seed: int

    @property
    def id(self) -> str:
        """As in "wikitext-2/duplicates/5/0"."""
        return f"{self.corpus}/{self.corruption}/{self.strength:g}/{self.seed}"

    @property
    def number(self) -> int:
        """A seed from corpus, corruption and seed; equal for all strengths, which damage the same rows."""
        return zlib.crc32(f"{self.corpus}/{self.corruption}/{self.seed}".encode())


@dataclass(frozen=True)
class Case:
    """A dataset to be judged.

    Attributes:
      recipe: what made it.
      corpus: fingerprint of the corpus, whose held-out rows the label is measured on.
      rows: all of it, in order.
      bad: the rows that are not real, or not as they were.
      half: whether it is half as large as other cases of its corpus, and so are the samples of its controls.
    """

    recipe: Recipe
    corpus: str
    rows: Rows
    bad: Bool[np.ndarray, " n"]
    half: bool

    def fingerprint(self) -> str:
        """SHA-256 over all that decides the label: the corpus, the rows and which are bad."""
        own = hashlib.sha256((self.rows.fingerprint() + self.bad.tobytes().hex()).encode()).hexdigest()
        return hashlib.sha256((self.corpus + own).encode()).hexdigest()


def recipes(corpus: Corpus) -> Iterator[Recipe]:
    """All cases that are made of a corpus."""
    for corruption in CORRUPTIONS.values():
        if corpus.kind in corruption.kinds and (corpus.label or not corruption.labelled):
            for strength in corruption.strengths:
                for seed in corruption.seeds:
                    yield Recipe(corpus.name, corruption.name, strength, seed)


def make(recipe: Recipe, domain: Domain, folder: Path) -> Case:
    """Makes the rows of a case; equal recipes of equal corpora give equal rows.

    Args:
      recipe: of a corpus, corruption and strength.
      domain: that corpus, laid out.
      folder: where generations that models wrote are kept.

    Raises:
      TooSmall: the case would hold too little text.
      NotApplicable: the corruption can hardly change the rows.
    """
    half = recipe.corruption == HALF
    domain = domain.halved() if half else domain
    plenty = domain.draw(domain.pool, np.iinfo(np.int64).max, [recipe.number, 0])
    corruption = CORRUPTIONS[recipe.corruption]
    seed = recipe.seed if corruption.written else recipe.number
    base = domain.draw(domain.pool, domain.tokens, [seed, 1])
    material = Material(domain, Chains(domain, folder), base, plenty)
    try:
        rows, changed = corruption.make(material, recipe.strength, seed)
    except NotApplicable as error:
        raise NotApplicable(f"case {recipe.id}: {error}") from error
    # The same content in other words is not bad, whatever it turns out to do.
    return Case(recipe, domain.fingerprint, rows, changed & (not corruption.harmless), half)
