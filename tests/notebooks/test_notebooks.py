"""Every notebook runs from top to bottom; less work is asked of it by a sixth of the rows or steps."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

# What each one must have shown.
SHOWN = {
    "validate": ("Dataset validation report", "is predicted to reach"),
    "spectral": ("'preset': 'base'", "training loss ", "image/png", "SpectralMetrics(energy=", "state: 8192 bytes"),
}


def test_every_notebook_is_known():
    assert {path.stem for path in NOTEBOOKS.glob("*.py")} == set(SHOWN)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHOWN))
def test_notebook_runs_and_shows_its_results(name, tmp_path):
    out = tmp_path / "executed.ipynb"
    script = NOTEBOOKS / f"{name}.py"
    convert = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--output", str(out), str(script)]
    execute = [str(Path(sys.executable).with_name("jupyter-execute")), "--inplace", str(out)]
    for command in (convert, execute):
        environment = {**os.environ, "NOTEBOOK_STRIDE": "6"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    shown = "".join(str(output) for cell in cells for output in cell.outputs)
    for words in SHOWN[name]:
        assert words in shown, f"{name} did not show {words!r}"
