"""The text that a model is trained on, rendered from the columns of instruction, chat and preference data.

A chunk is rendered with Arrow's own functions where they give what `Schema.render` gives, and row by row where not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from validation.datasets.base import Columns
from validation.datasets.columnar import ENCODED_NAMES, is_text, kind_of_type
from validation.datasets.records import kind_of
from validation.datasets.schemas import BadValue, Schema, structured

TYPE = pa.large_string()
_SPACE = "".join(character for character in map(chr, range(0x3001)) if character.isspace())
_BETWEEN = "\n\n"


def column_name(schema: Schema) -> str:
    """The name of the rendered column, such as "(chat)"."""
    return f"({schema.name})"


def rendered_schema(columns: pa.Schema, first: pa.RecordBatch) -> Schema | None:
    """How rows of a table become text; None for plain tables, and where none of the first rows can be rendered.

    Args:
      columns: of the table.
      first: its first rows.
    """
    kinds: Columns = {field.name: kind_of_type(field.type) for field in columns}
    for name in kinds:
        if kinds[name] == "string" and name.lower() in ENCODED_NAMES:
            found = set(map(kind_of, first.column(name).to_pylist()))
            kinds[name] = "encoded list" if "encoded list" in found else "string"
    schema = structured(kinds)
    return schema if schema is not None and render(schema, first).null_count < first.num_rows else None


def render(schema: Schema, data: pa.RecordBatch) -> pa.LargeStringArray:
    """The text of each row as `open_dataset` gives it; null where a row cannot be rendered.

    Args:
      schema: see `rendered_schema`.
      data: rows with at least the columns of the schema.
    """
    columns = [_plain(data.column(field)) for field in schema.fields]
    texts = None
    if not schema.encoded:
        texts = _instruction(columns) if is_text(columns[-1].type) else _conversations(schema, columns[-1])
    if texts is None:
        texts = pa.array([_one(schema, row) for row in data.select(list(schema.fields)).to_pylist()], TYPE)
    return _call(
        "if_else",
        _call("equal", _call("utf8_trim", texts, options=pc.TrimOptions(_SPACE)), ""),
        pa.scalar("", TYPE),
        texts,
    )


def _one(schema: Schema, row: dict[str, object]) -> str | None:
    try:
        return schema.render(row)[0]
    except BadValue:
        return None


def _plain(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.DictionaryArray):
        return array.dictionary_decode()
    return array


def _instruction(columns: Sequence[pa.Array]) -> pa.Array | None:
    """All parts that are not empty; None where a column holds no strings."""
    if not all(is_text(column.type) for column in columns):
        return None
    parts = [column.cast(TYPE) for column in columns]
    parts = [_call("if_else", _call("equal", part, ""), pa.scalar(None, TYPE), part) for part in parts]
    # Where there is no part at all, Arrow would leave out the row.
    parts[-1] = _call("if_else", _call("is_valid", _call("coalesce", *parts)), parts[-1], pa.scalar("", TYPE))
    return _call("binary_join_element_wise", *parts, pa.scalar(_BETWEEN, TYPE), options=pc.JoinOptions("skip"))


def _conversations(schema: Schema, column: pa.Array) -> pa.Array | None:
    """Turns as "role: content"; None where a list holds what must be looked at one by one."""
    if kind_of_type(column.type) != "list" or (schema.name == "preference" and column.null_count):
        return None
    first, last = (column.offsets[place].as_py() for place in (0, -1))
    messages = column.values.slice(first, last - first)
    role, content = (_first_of(messages, names) for names in (("role", "from"), ("content", "value")))
    if messages.null_count or role is None or content is None or not {"content", "value"} & _fields(messages):
        return None
    prefixed = _call("binary_join_element_wise", role, content, pa.scalar(": ", TYPE), options=pc.JoinOptions())
    texts = _call("if_else", _call("equal", role, ""), content, prefixed)
    if _call("any", _call("equal", texts, "")).as_py():  # before the first words, a turn without any takes no line
        return None
    offsets = _call("subtract", column.offsets.cast(pa.int64()), first)
    joined = _call("binary_join", pa.LargeListArray.from_arrays(offsets, texts), pa.scalar(_BETWEEN, TYPE))
    return _call("if_else", column.is_null(), pa.scalar("", TYPE), joined)


def _first_of(messages: pa.StructArray, names: Sequence[str]) -> pa.Array | None:
    """The first of some fields that is not null, else the empty text; None where one is no text."""
    fields = [messages.field(name) for name in names if name in _fields(messages)]
    if not all(is_text(field.type) or pa.types.is_null(field.type) for field in fields):
        return None
    return _call("coalesce", *(field.cast(TYPE) for field in fields), pa.array([""] * len(messages), TYPE))


def _fields(messages: pa.StructArray) -> set[str]:
    return {field.name for field in messages.type}


def _call(name: str, *arguments: object, options: pc.FunctionOptions | None = None) -> Any:
    return pc.call_function(name, list(arguments), options)
