"""Sizes of the benchmark that fit a corpus made in a test."""

from __future__ import annotations

import bench_world
import pytest

from validation.bench import domain


@pytest.fixture
def small(monkeypatch):
    """Cases of a few thousand tokens, and label models that train for one segment."""
    for name, value in bench_world.SIZES.items():
        monkeypatch.setattr(domain, name, value)
