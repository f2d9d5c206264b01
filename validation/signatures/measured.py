"""Signatures from measurements: of a profile, and of the labelled cases of CollapseBench."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

from validation.datasets import open_table
from validation.profile import Profile, features, profile
from validation.signatures.record import Outcome, Provenance, Signature

_OF_CORRUPTION = {  # beginnings of the benchmark's names
    "resample": "healthy",
    "paraphrase": "healthy",
    "reformat": "healthy",
    "spell": "healthy",
    "lower": "healthy",
    "duplicates": "duplication",
    "tail": "diversity loss",
    "rare": "diversity loss",
    "drop": "diversity loss",
    "templates": "synthetic artefacts",
    "replace": "synthetic artefacts",
    "accumulate": "synthetic artefacts",
    "mix": "synthetic artefacts",
    "copula": "synthetic artefacts",
    "sines": "synthetic artefacts",
    "shuffle time": "temporal instability",
    "stuck": "temporal instability",
    "noise": "temporal instability",
    "smooth": "temporal instability",
}
_VERDICTS = {"clean": "no collapse", "collapsing": "collapse", "grey": "unknown"}


def fingerprint(found: Profile) -> str:
    """SHA-256 of a dataset's columns and rows as its profile counted them; the order of rows and names of files do not count.

    Of more rows than the profile's table of whole rows holds, those in its sampled part of the hash space stand for all.
    """
    digest = hashlib.sha256()
    digest.update("\n".join(f"{column.leaf.name}\t{column.leaf.kind}" for column in found.columns).encode())
    digest.update(f"\n{found.rows}\n{found.whole_rows.share!r}\n".encode())
    counts = found.whole_rows
    keys = np.concatenate([counts.frequent.keys, counts.sampled.keys])
    times = np.concatenate([counts.frequent.counts, counts.sampled.counts])
    order = np.argsort(keys)
    digest.update(keys[order].astype("<u8").tobytes() + times[order].astype("<i8").tobytes())
    return digest.hexdigest()


def signature(
    found: Profile,
    *,
    family: str,
    source: str,
    measured_by: str,
    outcome: Outcome | None = None,
    day: str | None = None,
) -> Signature:
    """The signature of a profiled dataset.

    Args:
      found: its profile.
      family: kind of damage, or "healthy".
      source: what it is or was made of.
      measured_by: who answers for it.
      outcome: what training on it did; unknown by default.
      day: of the measurement, YYYY-MM-DD; today by default.

    Returns:
      The record, without the features that could not be measured.
    """
    known = {name: value for name, value in features(found).items() if math.isfinite(value)}
    day = day or datetime.now(UTC).date().isoformat()
    provenance = Provenance(measured_by, version("atlas-jax"), fingerprint(found), source, found.rows, day)
    return Signature(known, family, provenance, outcome or Outcome())


def bench_signatures(
    table: Path, chains: Path, cases: Sequence[str], measured_by: str, say: Callable[[str], None]
) -> Iterator[Signature]:
    """Signatures of labelled cases of CollapseBench: their rows are made again and profiled, their harm is the table's.

    The committed table holds hashes and labels but no rows, so that this takes the corpora, and seconds a case.

    Args:
      table: the benchmark's folder of results.
      chains: folder where generations that models wrote are kept.
      cases: their names; those without a label are passed over, with a word.
      measured_by: who answers for it.
      say: told of every case that is passed over.
    """
    from validation.bench.labelling import Desk, write_case
    from validation.bench.table import Table

    desk = Desk(Table(table), chains, say)
    for name in cases:
        label = desk.table.label(name)
        if label is None or label["verdict"] not in _VERDICTS:
            say(f"skipped {name}: not labelled")
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                data = write_case(desk, name, Path(folder))[0]
            except ValueError as error:
                say(f"skipped {name}: {error}")
                continue
            found = profile(open_table(data), workers=1)
        harm = [
            float(np.mean(one["values"])) for one in label["criteria"] if one["name"] == "C1" and one["group"] == "all"
        ]
        outcome = Outcome(_VERDICTS[label["verdict"]], harm[0] if harm else None, f"CollapseBench label of {name}")
        corpus, corruption = name.split("/")[:2]
        yield signature(
            found,
            family=family_of(corruption),
            source=f"CollapseBench: {corpus}",
            measured_by=measured_by,
            outcome=outcome,
        )


def family_of(corruption: str) -> str:
    """The family that a corruption of the benchmark belongs to; "unclassified" where it is none of them."""
    return next((family for begin, family in _OF_CORRUPTION.items() if corruption.startswith(begin)), "unclassified")
