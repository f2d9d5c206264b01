"""The kinds of rows people train on, recognised from the columns and rendered to text.

Names are compared without case. `trained_from` is the offset, in characters of the rendered text, where the part that
is trained on begins: the response of an instruction, preference or chat row, and 0 for plain text.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from validation.datasets.base import Columns
from validation.datasets.json_values import json_type
from validation.datasets.records import encoded_list
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError

TEXT = ("text", "content", "document", "body")
INSTRUCTION = ("instruction", "prompt", "question")
CONTEXT = ("input", "context")
RESPONSE = ("output", "response", "completion", "answer")
MESSAGES = ("messages", "conversations", "conversation")
RESPONDENTS = frozenset(("assistant", "gpt", "model", "bot", "chatgpt", "ai"))
_LISTED = 20  # columns that an error names

Rendered = tuple[str, int]
"""A row's text, and the character where its trained part begins."""


class BadValue(ValueError):
    """A value that cannot be rendered; becomes a bad row."""


@dataclass(frozen=True)
class Schema:
    """How rows of one dataset become text.

    Attributes:
      name: "plain", "instruction", "chat" or "preference".
      fields: columns that are rendered, in order.
      optional: those of `fields` that a row may lack.
      encoded: those of `fields` that hold a list of messages as JSON in a string, as flat files do.
    """

    name: str
    fields: tuple[str, ...]
    optional: frozenset[str] = frozenset()
    encoded: frozenset[str] = frozenset()

    def required(self) -> tuple[str, tuple[str, ...]]:
        """What two files of one dataset must agree on."""
        return self.name, tuple(field for field in self.fields if field not in self.optional)

    def render(self, values: Mapping[str, Any]) -> Rendered:
        """Text of one row.

        Raises:
          BadValue: a field is missing or is not text.
        """
        return _RENDER[self.name](self, values)


def recognise(source: Source, columns: Columns, text_column: str | None) -> Schema:
    """Chooses the schema of a file from its columns; an explicit text column always wins.

    Raises:
      DatasetError: the text column does not exist, or none can be chosen.
    """
    if text_column is not None:
        if text_column not in columns:
            close = difflib.get_close_matches(text_column, columns, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DatasetError(f"{source}: no column {text_column!r}; columns: {_listed(columns)}{hint}")
        return Schema("plain", (text_column,))
    found = structured(columns) or _plain(columns)
    if found is None:
        raise DatasetError(
            f"{source}: cannot tell which column is the text; columns: {_listed(columns)}; name one with --text-column"
        )
    return found


def structured(columns: Columns) -> Schema | None:
    """The instruction, chat or preference schema that columns make; None where they make none."""
    texts = {name.lower(): name for name in columns}
    prompt, context, response = (_first(texts, names) for names in (INSTRUCTION, CONTEXT, RESPONSE))
    messages = _first(texts, MESSAGES)
    encoded = frozenset(name for name, kind in columns.items() if kind == "encoded list")
    if "chosen" in texts and "rejected" in texts:
        chosen = texts["chosen"]
        return Schema("preference", (*([prompt] if prompt else []), chosen), encoded=encoded & {chosen})
    if messages and columns[messages] in ("list", "encoded list"):
        return Schema("chat", (messages,), encoded=encoded & {messages})
    if prompt and response:
        fields = (prompt, *([context] if context else []), response)
        return Schema("instruction", fields, frozenset([context] if context else []))
    return None


def _plain(columns: Columns) -> Schema | None:
    named = _first({name.lower(): name for name in columns}, TEXT)
    strings = [name for name, kind in columns.items() if kind in ("string", "encoded list")]
    column = named or (strings[0] if len(strings) == 1 else None)
    return Schema("plain", (column,)) if column else None


def _first(columns: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _listed(columns: Columns) -> str:
    names = list(columns)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _string(values: Mapping[str, Any], field: str) -> str:
    try:
        value = values[field]
    except KeyError:
        raise BadValue(f"no field {field!r}") from None
    return _as_string(value, field)


def _as_string(value: Any, field: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadValue(f"{field!r} holds {json_type(value)}, expected text")
    return value


def _render_plain(schema: Schema, values: Mapping[str, Any]) -> Rendered:
    return _string(values, schema.fields[0]), 0


def _render_instruction(schema: Schema, values: Mapping[str, Any]) -> Rendered:
    *asked, answered = schema.fields
    prompt = [_string(values, field) for field in asked if field in values or field not in schema.optional]
    return _prompted(prompt, _string(values, answered))


def _render_preference(schema: Schema, values: Mapping[str, Any]) -> Rendered:
    *asked, chosen = schema.fields
    prompt = [_string(values, field) for field in asked]
    turns = _decoded(schema, values, chosen)
    if isinstance(turns, list):
        # The chosen conversation repeats the prompt as its first turn.
        return _conversation(turns, chosen)
    return _prompted(prompt, _string(values, chosen))


def _render_chat(schema: Schema, values: Mapping[str, Any]) -> Rendered:
    field = schema.fields[0]
    if field not in values:
        raise BadValue(f"no field {field!r}")
    messages = _decoded(schema, values, field)
    messages = [] if messages is None else messages
    if not isinstance(messages, list):
        raise BadValue(f"{field!r} holds {json_type(messages)}, expected a list of messages")
    return _conversation(messages, field)


def _decoded(schema: Schema, values: Mapping[str, Any], field: str) -> Any:
    """A field's value; the list that its string holds, where the schema says so and the string holds one."""
    value = values.get(field)
    if field not in schema.encoded or not isinstance(value, str):
        return value
    found = encoded_list(value)
    return found if found is not None else value or None


def _prompted(prompt: Iterable[str], response: str) -> Rendered:
    asked = "\n\n".join(part for part in prompt if part)
    if asked and response:
        return f"{asked}\n\n{response}", len(asked) + 2
    return asked or response, len(asked)


def _conversation(messages: list[Any], field: str) -> Rendered:
    """Renders turns as "role: content"; trained from the first respondent's turn, from 0 where there is none."""
    text, trained_from = "", None
    for message in messages:
        role, content = _turn(message, field)
        text += "\n\n" if text else ""
        prefix = f"{role}: " if role else ""
        if trained_from is None and role.lower() in RESPONDENTS:
            trained_from = len(text) + len(prefix)
        text += prefix + content
    return text, trained_from or 0


def _turn(message: Any, field: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise BadValue(f"{field!r} holds a message that is {json_type(message)}, expected an object")
    role = next((message[key] for key in ("role", "from") if message.get(key) is not None), "")
    content = next((message[key] for key in ("content", "value") if message.get(key) is not None), "")
    if not any(key in message for key in ("content", "value")):
        raise BadValue(f"{field!r} holds a message without 'content' or 'value'")
    return _as_string(role, "role"), _as_string(content, "content")


_RENDER: dict[str, Callable[[Schema, Mapping[str, Any]], Rendered]] = {
    "plain": _render_plain,
    "instruction": _render_instruction,
    "preference": _render_preference,
    "chat": _render_chat,
}
