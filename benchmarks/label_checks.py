"""Can the labels of the benchmark be trusted? Random cases labelled again with other seeds, and with training four times as long.

C1 and C2 alone: C3 is not repeated.

`python -m benchmarks.label_checks again` and `... longer`; one JSON line a case, then one for the whole, in
benchmarks/results/label_checks.jsonl. A case that stands there already is not done again. `... sampling` measures how fast the
model writes generations.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from atlas_jax.distributed.mesh import cache_directory, compilation_cache
from benchmarks.quality.records import Records
from validation.bench.cases import make
from validation.bench.corpora import CORPORA, MissingCorpus, read
from validation.bench.domain import VOCABULARY, Domain, lay_out
from validation.bench.generations import TOP_K
from validation.bench.generators import model_generation
from validation.bench.labelling import recipe_of
from validation.bench.labels import Controls, Judgement, control_losses, judge, loss_criteria
from validation.bench.outcomes import SEEDS, train_cases, train_controls
from validation.bench.table import DEFAULT, Line, Table

OTHER_SEEDS = (101, 102, 103)
LONGER = 4


def shuffled_cases(table: Table, corpora: int | None, seed: int) -> list[Line]:
    """All labelled cases in random order, of so many random corpora where a number is given."""
    rng = np.random.default_rng(seed)
    lines = [line for name, line in table.cases.items() if table.label(name) is not None]
    names = sorted({line["corpus"] for line in lines})
    if corpora is not None:
        kept = set(rng.permutation(names)[:corpora].tolist())
        lines = [line for line in lines if line["corpus"] in kept]
    return [lines[index] for index in rng.permutation(len(lines))]


def again(whole: Domain, lines: Sequence[Line], seeds: Sequence[int], longer: int) -> Iterator[tuple[Line, Judgement]]:
    """Labels cases of one corpus and size from the beginning, controls included, with so many times the steps."""
    domain = whole.halved() if lines[0]["half"] else whole
    domain = replace(domain, steps=longer * domain.steps)
    controls = Controls(control_losses(train_controls(domain, seeds=seeds)))
    for line in lines:
        case = make(recipe_of(line), whole, cache_directory() / "bench")
        if case.fingerprint() != line["hash"]:
            print(f"skipped {line['id']}: its rows are not those of the table", file=sys.stderr)
            continue
        (outcome,) = train_cases(domain, [case.rows], seeds=seeds)
        yield line, judge(loss_criteria(outcome.losses, controls))


def laid_out(name: str) -> Domain | None:
    """The corpus, or None with a word where its files are not there."""
    try:
        return lay_out(name, read(name), label=CORPORA[name].label)
    except MissingCorpus as missing:
        print(f"skipped {name}: {missing}", file=sys.stderr)
        return None


def sampling(records: Records, corpus: str) -> None:
    """Tokens a second that the model draws from its streaming state, the second time, when everything is compiled."""
    domain = laid_out(corpus)
    if domain is None:
        return
    documents = domain.encode(domain.draw(domain.pool, domain.tokens, seed=0))
    for top_k in (None, TOP_K):
        seconds = []
        for seed in (0, 1):
            began = time.monotonic()
            options = {"vocab_size": VOCABULARY, "eos": domain.tokenizer.eos, "seed": seed, "top_k": top_k}
            few = model_generation(documents, tokens=1, steps=domain.steps, **options)
            middle = time.monotonic()
            many = model_generation(documents, tokens=domain.tokens, steps=domain.steps, **options)
            seconds.append((time.monotonic() - middle) - (middle - began))
        written = sum(len(document) + 1 for document in many) - sum(len(document) + 1 for document in few)
        records.add("label.sampling", written / seconds[1], "tokens/s", corpus=corpus, top_k=top_k)


def main() -> None:
    """Runs one of the checks; of cases those that are still missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=("again", "longer", "sampling"))
    parser.add_argument("--cases", type=int, help="default 20 for again, 30 for longer")
    parser.add_argument(
        "--corpora", type=int, help="how many corpora they are drawn from; default all for again, 4 for longer"
    )
    parser.add_argument("--table", type=Path, default=DEFAULT)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "label_checks.jsonl")
    options = parser.parse_args()
    compilation_cache()
    if options.check == "sampling":
        sampling(Records(options.out), "stories")
        return
    long = options.check == "longer"
    table, records = Table(options.table), Records(options.out)
    lines = shuffled_cases(table, options.corpora or (4 if long else None), seed=4)
    name, count = f"label.{options.check}", options.cases or (30 if long else 20)
    done = [line for line in lines if records.find(name=name, case=line["id"])]
    missing = [line for line in lines if line not in done][: max(0, count - len(done))]
    missing.sort(key=lambda line: (line["corpus"], line["half"], line["id"]))
    for (corpus, _), group in groupby(missing, key=lambda line: (line["corpus"], line["half"])):
        domain = laid_out(corpus)
        if domain is None:
            continue
        began = time.monotonic()
        seeds, longer = (SEEDS, LONGER) if long else (OTHER_SEEDS, 1)
        for line, judgement in again(domain, list(group), seeds, longer):
            _record(records, name, line, table.label(line["id"]) or {}, judgement, time.monotonic() - began)
    found = [figure for line in lines if (figure := records.find(name=name, case=line["id"]))]
    clear = [figure for figure in found if "grey" not in (figure["first"], figure["second"])]
    agree = sum(figure["first"] == figure["second"] for figure in clear)
    records.add(f"{name}.agreement", agree / max(1, len(clear)), "share", cases=len(found), outside_grey=len(clear))


def _record(records: Records, name: str, line: Line, first: dict[str, Any], second: Judgement, seconds: float) -> None:
    before, now = first["criteria"][0], second.criteria[0]
    records.add(
        name,
        now.mean,
        "bits per token",
        case=line["id"],
        first_harm=float(np.mean(before["values"])),
        first=first["verdict"],
        second=second.verdict,
        bars=[before["bar"], now.bar],
        sigmas=[before["sigma"], now.sigma],
        doubt=first["doubt"],
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
