"""Where development data lies: the folder that ATLAS_DEV_DATA names."""

import os
from pathlib import Path

import pytest


def development_data(name):
    """A folder of development data; the test is skipped, saying so, where there is none."""
    folder = os.environ.get("ATLAS_DEV_DATA")
    if folder is None:
        pytest.skip("ATLAS_DEV_DATA is not set: the folder of development data sets")
    return Path(folder) / name
