"""Where the data sets lie that do not come with Python."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder(given: Path | None) -> Path | None:
    """The folder given, else that of the environment variable ATLAS_DEV_DATA, else none."""
    return given or (Path(os.environ["ATLAS_DEV_DATA"]) if "ATLAS_DEV_DATA" in os.environ else None)
