"""Clean rows that the benchmark damages: texts, tables and series that a machine has, or that this project generates."""

from validation.bench.corpora.catalogue import CORPORA, read
from validation.bench.corpora.corpus import Corpus, MissingCorpus

__all__ = ["CORPORA", "Corpus", "MissingCorpus", "read"]
