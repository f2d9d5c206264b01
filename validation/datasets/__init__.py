"""Datasets of any format: typed tables (`open_table`) and rows as text (`open_dataset`), by one set of readers."""

from validation.datasets.base import Metadata
from validation.datasets.dataset import Dataset, open_dataset
from validation.datasets.storage import DatasetError
from validation.datasets.table import Chunk, Part, Table, TableMetadata, open_table

__all__ = [
    "Chunk",
    "Dataset",
    "DatasetError",
    "Metadata",
    "Part",
    "Table",
    "TableMetadata",
    "open_dataset",
    "open_table",
]
