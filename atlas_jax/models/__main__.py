"""`python -m atlas_jax.models`: every preset with its counted parameters, its context and the size of its state."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from atlas_jax.models.registry import Description, describe, presets


@dataclass(frozen=True)
class Listing:
    """Lists every preset of every registered model.

    Attributes:
      json: one JSON array instead of a table.
    """

    json: bool = False


def table(rows: list[Description]) -> Table:
    """The rows as a table for people, numbers with thousands separated."""
    shown = Table("model", "preset", box=box.SIMPLE_HEAD)
    for heading in ("parameters", "context, tokens", "state, bytes"):
        shown.add_column(heading, justify="right")
    for row in rows:
        numbers = (row["parameters"], row["context"], row["state_bytes"])
        shown.add_row(row["name"], row["preset"], *(f"{number:,}" for number in numbers))
    return shown


def main(arguments: list[str] | None = None) -> None:
    """Entry of the command line."""
    listing = tyro.cli(Listing, prog="python -m atlas_jax.models", args=arguments)
    rows = [describe(name, preset) for name, preset, _ in presets()]
    if listing.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        console, shown = Console(), table(rows)
        # In a narrow terminal lines are broken by the terminal; numbers would be cut.
        whole = console.measure(shown, options=console.options.update(max_width=1000)).maximum
        console.width = max(console.width, whole)
        console.print(shown)


if __name__ == "__main__":
    main()
