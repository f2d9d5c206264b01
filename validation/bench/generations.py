"""Data that models wrote: chains in which each generation is trained on what the one before it wrote.

Source: replace, accumulate and accumulate-subsample as in Gerstgrasser et al. 2024 (arXiv:2404.01413) and Kazdan et al. 2024
(arXiv:2410.16713); generations replaced one after the other as in Shumailov et al. 2024 (Nature 631).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from validation.bench.domain import Domain, NotApplicable
from validation.bench.generators import model_generation, ngram_generation
from validation.bench.rows import Rows, parse

GENERATIONS = 5
TOP_K = 20
FORMAT = 1  # raised whenever a chain would come out otherwise

Writer = Literal["n-gram", "long n-gram", "model"]
ORDER: dict[Writer, int] = {"n-gram": 4, "long n-gram": 10}
Diet = Literal["replace", "accumulate", "subsample"]


@dataclass(frozen=True)
class Chain:
    """How five generations come about.

    Attributes:
      writer: token n-grams of order 4, or of order 10, which repeats whole phrases of what it read; or a small attention-free
        model that is neither the label's family nor a detector's.
      top_k: only so many of the likeliest tokens are drawn; None draws from all.
      diet: each generation is trained on the one before alone (replace), on the real rows and all generations so far
        (accumulate), or on an equal share of each, as much in all as the real rows were (subsample).
      seed: of everything.
    """

    writer: Writer
    top_k: int | None
    diet: Diet
    seed: int


class Chains:
    """The chains of one domain, each made once and kept in a folder."""

    def __init__(self, domain: Domain, folder: Path) -> None:
        """Args: the domain; where the rows of finished chains are kept."""
        self._domain, self._folder = domain, folder

    def generation(self, chain: Chain, real: Rows, number: int) -> Rows:
        """What generation `number` (from 1) wrote, where `real` rows were the beginning."""
        key = repr((FORMAT, self._domain.fingerprint, self._domain.tokens, chain, real.fingerprint(), number))
        path = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        if path.exists():
            cells = [tuple(row) for row in json.loads(path.read_text(encoding="utf-8"))]
            return Rows(real.kind, real.columns, cells)
        written = self._write(chain, self._diet(chain, real, number), real, number)
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".partial")
        unfinished.write_text(json.dumps(written.cells), encoding="utf-8")
        unfinished.replace(path)
        return written

    def _diet(self, chain: Chain, real: Rows, number: int) -> Rows:
        """What generation `number` is trained on."""
        if number == 1:
            return real
        if chain.diet == "replace":
            return self.generation(chain, real, number - 1)
        parts = [real, *(self.generation(chain, real, earlier) for earlier in range(1, number))]
        return accumulated(self._domain, chain, parts)

    def _write(self, chain: Chain, read: Rows, real: Rows, number: int) -> Rows:
        domain, seed = self._domain, 1000 * chain.seed + number
        if chain.writer == "model":
            generate = partial(model_generation, steps=domain.steps)
        else:
            generate = partial(ngram_generation, order=ORDER[chain.writer])
        documents = generate(
            domain.encode(read),
            vocab_size=domain.tokenizer.vocab_size,
            eos=domain.tokenizer.eos,
            tokens=domain.tokens,
            seed=seed,
            top_k=chain.top_k,
        )
        texts = [domain.tokenizer.decode(document) for document in documents]
        written = parse(real.kind, real.columns, texts)
        if not len(written):
            raise NotApplicable(
                f"generation {number} by {chain.writer} has {len(texts)} rows, none of them well formed"
            )
        return written


def accumulated(domain: Domain, chain: Chain, parts: list[Rows]) -> Rows:
    """The real rows and the generations after them as one dataset, all of each or an equal share of each."""
    if chain.diet == "subsample":
        share = domain.tokens // len(parts)
        parts = [domain.draw(part, share, [chain.seed, index]) for index, part in enumerate(parts)]
    return Rows(parts[0].kind, parts[0].columns, [cells for part in parts for cells in part.cells])
