"""Whether a table is text, a time series, or neither: from its columns and its first rows."""

from __future__ import annotations

import itertools
import re

import pyarrow as pa

from validation.datasets.base import Columns, TableKind
from validation.datasets.columnar import ENCODED_NAMES, is_text, kind_of_type
from validation.datasets.records import kind_of
from validation.datasets.schemas import TEXT, structured

TIME_NAMES = re.compile(
    r"date|time|timestamp|datetime|date_?time|year|month|week|day|quarter|period|ds|t|ts", re.IGNORECASE
)
TEXT_CHARACTERS = 30
"""Mean length from which a column of strings is prose rather than names and codes."""

TEXT_WORDS = 5
DISTINCT_SHARE = 0.5
"""Prose seldom repeats; descriptions of a category do."""

NUMERIC_SHARE = 0.5


def table_kind(schema: pa.Schema, first: pa.RecordBatch | None) -> TableKind:
    """Kind of a table.

    Text: an instruction, chat or preference schema, a text column by name, or a column of prose. Time series: a column
    of ordered times, and numbers in at least half of the others.

    Args:
      schema: columns and types.
      first: first rows; None if there is none.
    """
    columns: Columns = {field.name: kind_of_type(field.type) for field in schema}
    if first is not None:
        for name in columns:
            if columns[name] == "string" and name.lower() in ENCODED_NAMES:
                kinds = set(map(kind_of, first.column(name).to_pylist()))
                columns[name] = "encoded list" if "encoded list" in kinds else "string"
    if structured(columns) is not None:
        return "text"
    if any(kind == "string" and name.lower() in TEXT for name, kind in columns.items()):
        return "text"
    if first is None or first.num_rows == 0:
        return "tabular"
    if any(_is_prose(first.column(name)) for name, kind in columns.items() if kind == "string"):
        return "text"
    times = [field.name for field in schema if _is_time(field, first)]
    others = [field for field in schema if field.name not in times]
    numbers = sum(_is_number(field.type) for field in others)
    return "time series" if times and numbers and numbers >= NUMERIC_SHARE * len(others) else "tabular"


def _is_prose(column: pa.Array) -> bool:
    values = column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
    texts = [text for text in values.cast(pa.large_binary()).to_pylist() if text]
    if len(set(texts)) < max(1, DISTINCT_SHARE * len(texts)):
        return False
    words = sum(len(text.split()) for text in texts)
    return words >= TEXT_WORDS * len(texts) and sum(map(len, texts)) >= TEXT_CHARACTERS * len(texts)


def _is_time(field: pa.Field, first: pa.RecordBatch) -> bool:
    """Whether a column runs forward in time: by type, or by name where it holds integers or short codes."""
    column = first.column(field.name)
    typed = pa.types.is_timestamp(field.type) or pa.types.is_date(field.type)
    coded = pa.types.is_integer(field.type) or is_text(field.type)
    if column.null_count or not (typed or (coded and TIME_NAMES.fullmatch(field.name))):
        return False
    if typed:
        column = column.cast(pa.int32() if pa.types.is_date32(field.type) else pa.int64())
    values = column.to_pylist()
    steps = itertools.pairwise(values)
    return all(a <= b for a, b in steps) if typed else len(values) > 1 and all(a < b for a, b in steps)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
