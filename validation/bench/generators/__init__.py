"""Language models that write the next generation of a text corpus: what a loop of training on its own output leaves."""

from validation.bench.generators.model import model_generation, sample
from validation.bench.generators.ngram import ngram_generation
from validation.bench.generators.streams import STREAMS, longest_document

__all__ = ["STREAMS", "longest_document", "model_generation", "ngram_generation", "sample"]
