"""Diversity of a text dataset before any model is trained: statistics, duplicates, rows without content."""

from validation.diversity.duplicates import Duplicates, find_duplicates
from validation.diversity.low_information import is_low_information, low_information_scores, reasons
from validation.diversity.statistics import Diversity, TextStatistics

__all__ = [
    "Diversity",
    "Duplicates",
    "TextStatistics",
    "find_duplicates",
    "is_low_information",
    "low_information_scores",
    "reasons",
]
