"""Every notebook runs from top to bottom; its models are made small by taking every sixth row."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_notebook_runs_and_shows_its_report(script, tmp_path):
    out = tmp_path / "executed.ipynb"
    convert = [sys.executable, "-m", "jupytext", "--to", "ipynb", "--output", str(out), str(script)]
    execute = [str(Path(sys.executable).with_name("jupyter-execute")), "--inplace", str(out)]
    for command in (convert, execute):
        environment = {**os.environ, "NOTEBOOK_STRIDE": "6"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    shown = "".join(str(output) for cell in cells for output in cell.outputs)
    assert "Dataset validation report" in shown, "report.show() displayed no page"
    assert "is predicted to reach" in shown
