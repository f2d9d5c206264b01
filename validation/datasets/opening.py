"""The one format of a dataset's files, and its reader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from validation.datasets.arrow import Arrow
from validation.datasets.base import Format
from validation.datasets.delimited import Delimited
from validation.datasets.json_array import JsonArray
from validation.datasets.json_lines import JsonLines
from validation.datasets.parquet import Parquet
from validation.datasets.sniff import FormatName, sniff, suffix_of
from validation.datasets.sources import Source
from validation.datasets.storage import DatasetError
from validation.datasets.text import Text, text_kind


def one_format(sources: Sequence[Source]) -> tuple[tuple[Source, ...], FormatName]:
    """Sources with their compression, and the format that all of them have.

    Raises:
      DatasetError: a format cannot be told, or two files have different ones.
    """
    found = [sniff(source) for source in sources]
    first, name = found[0]
    for source, other in found:
        if other != name:
            pattern = source.storage.printed(str(PurePosixPath(source.path).parent / f"*{suffix_of(source.name)}"))
            raise DatasetError(f"{first} is {name} and {source} is {other}; expected one format, such as {pattern!r}")
    return tuple(source for source, _ in found), name


def reader(name: FormatName, sources: Sequence[Source], sheet: str | None = None) -> Format:
    """The reader of a format.

    Raises:
      DatasetError: a sheet is asked of a format that has none.
    """
    if sheet is not None and name != "excel":
        raise DatasetError(f"{sources[0]}: no sheet {sheet!r}; {name} files have no sheets")
    if name == "text":
        return Text(text_kind(sources))
    if name == "hdf5":
        from validation.datasets.hdf5 import Hdf5

        return Hdf5()
    if name == "excel":
        from validation.datasets.excel import Excel

        return Excel(sheet)
    return _READERS[name]


_READERS: dict[FormatName, Format] = {
    "jsonl": JsonLines(),
    "json": JsonArray(),
    "csv": Delimited(","),
    "tsv": Delimited("\t"),
    "parquet": Parquet(),
    "arrow": Arrow("file"),
    "arrow stream": Arrow("stream"),
    "feather": Arrow("feather 1"),
}
