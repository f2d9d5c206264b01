"""The programs of docs/atlas.md run as they are printed, one after the other, and say what the page says."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

PAGE = Path(__file__).parents[3] / "docs" / "atlas.md"


def programs():
    """What stands between lines of three backquotes, of Python."""
    return [part.split("```")[0] for part in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]]


@pytest.mark.slow
def test_the_programs_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, save, restore, chunks, devices = programs()
    known = {}
    exec(first, known)  # our own page
    exec(save, known)
    saved = {name: known[name] for name in ("params", "state")}
    exec(restore, known)
    jax.tree.map(np.testing.assert_array_equal, {name: known["found"][name] for name in saved}, saved)
    assert known["about"] == {"preset": "micro-tnt"}
    assert np.any(known["drawn"] != known["again"])
    exec(chunks, known)
    fine = known["logits"]
    exec(devices, known)
    alone, _ = jax.jit(known["partial"](known["atlas"].apply, known["config"]))(known["params"], known["tokens"])
    np.testing.assert_allclose(known["logits"], alone, rtol=0, atol=1e-4)
    assert np.isfinite(fine).all()
