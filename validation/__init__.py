"""Would this dataset collapse a model? Which rows do it, and what helps?

>>> from validation import validate
>>> report = validate("my.jsonl", reference="trusted.jsonl")
>>> report.show()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from validation.api import validate
    from validation.report.model import Report

__all__ = ["Report", "validate"]


def __getattr__(name: str) -> Any:
    """`validate` and `Report` when they are asked for: reading and profiling data must not wait for JAX."""
    if name == "validate":
        from validation.api import validate

        return validate
    if name == "Report":
        from validation.report.model import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
