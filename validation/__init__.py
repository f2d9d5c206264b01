"""Would this dataset collapse a model? Which rows do it, and what helps?

>>> from validation import validate
>>> report = validate("my.jsonl", reference="trusted.jsonl")
>>> report.show()
"""

from validation.api import validate
from validation.report.model import Report

__all__ = ["Report", "validate"]
