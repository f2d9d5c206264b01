"""The map of needles found, as a picture."""

from __future__ import annotations

import numpy as np
import pytest

from atlas_jax.training.needles.heat_map import draw_needle_map


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_map_is_drawn(tmp_path, ending):
    path, shares = tmp_path / "maps" / f"needles.{ending}", np.array([[1.0, 0.4, 0.0]], np.float32)
    draw_needle_map(path, shares, 0 * shares, lengths=(64,), depths=(0.0, 0.5, 1.0), trained=32)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") if ending == "png" else b"all read: 47 %" in content
    with pytest.raises(ValueError, match=r"right has shape \(1, 3\), expected \(2, 3\)"):
        draw_needle_map(path, shares, shares, lengths=(64, 128), depths=(0.0, 0.5, 1.0))
