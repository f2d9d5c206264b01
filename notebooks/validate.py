# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Would this dataset collapse a model?
#
# The same three lines as the command line, on text that every machine has: the Python standard library's documentation. One
# half is the data, the other half the trusted reference.

# %%
import os
import tempfile
from pathlib import Path

from validation.datasets.standard_library import standard_library_rows
from validation.demonstration import write_rows

folder = Path(tempfile.mkdtemp())
rows = standard_library_rows()[:: int(os.environ.get("NOTEBOOK_STRIDE", "1"))]
write_rows(folder / "data.jsonl", rows[::2])
write_rows(folder / "reference.jsonl", rows[1::2])

# %%
from validation import validate

report = validate(folder / "data.jsonl", reference=folder / "reference.jsonl", profile="quick")
report.show()

# %% [markdown]
# The report is plain data: what the page shows can be computed with.

# %%
report.verdict.risk, report.verdict.passed, report.verdict.minimum_detectable_harm

# %%
{dimension.name: dimension.value for dimension in report.dimensions}

# %%
[(row.row, row.issue, row.detail) for row in report.flagged_rows[:5]]

# %%
print(report.scaling.prediction.written)
print("reached:", report.scaling.prediction.actual)
