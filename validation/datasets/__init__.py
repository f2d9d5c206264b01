"""Text datasets: one contract for plain text, JSON Lines, JSON, CSV, TSV and Parquet files."""

from validation.datasets.base import DatasetError, Metadata
from validation.datasets.dataset import Dataset, open_dataset

__all__ = ["Dataset", "DatasetError", "Metadata", "open_dataset"]
