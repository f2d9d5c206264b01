"""All corpora of the benchmark by name."""

from __future__ import annotations

from validation.bench.corpora import development, development_numbers, everywhere, generated_numbers, generated_text
from validation.bench.corpora.corpus import Corpus
from validation.bench.rows import Rows

CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for module in (development, development_numbers, everywhere, generated_text, generated_numbers)
    for corpus in module.CORPORA
}


def read(name: str) -> Rows:
    """The rows of a corpus: the same on the same machine always.

    Rows are distinct and stand in the order of their source. No cell is empty or holds a tab; those of tables and series
    hold no line break either, and "?" stands for a value that is not known. Long documents are cut into rows of 200 to
    600 characters; a corpus of text ends at about 2 MB, a table at 12,000 rows, taken evenly from the whole.

    Args:
      name: one of `CORPORA`.

    Raises:
      ValueError: there is no such corpus.
      MissingCorpus: its files are not on this machine; the message says what to set or install.
    """
    if name not in CORPORA:
        raise ValueError(f"corpus: {name!r}; expected one of {', '.join(CORPORA)}")
    return CORPORA[name].reader()
