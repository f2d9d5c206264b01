"""One pass over a table: figures of every column, what changes along the files, a sample of rows; merged and compared.

>>> from validation.datasets import open_table
>>> from validation.profile import compare, load, profile
>>> found = profile(open_table("data/*.parquet"))
>>> compare(found, load("profiles/reference")).drifted
"""

from validation.profile.compare import Comparison, compare
from validation.profile.features import features
from validation.profile.run import profile
from validation.profile.state import Profile
from validation.profile.storage import load, save

__all__ = ["Comparison", "Profile", "compare", "features", "load", "profile", "save"]
