"""What the tests of the cascade share: a cache of their own for controls, with the compiled programs of every run."""

from __future__ import annotations

import jax
import pytest

from atlas_jax.distributed.mesh import cache_directory


@pytest.fixture(scope="session", autouse=True)
def four_devices():
    """Starts JAX before a run under test can ask for one device per core."""
    assert len(jax.devices()) == 4


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache whose compiled programs are those of the machine's own cache."""
    compiled = cache_directory() / "xla"
    compiled.mkdir(parents=True, exist_ok=True)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "xla").symlink_to(compiled)
    monkeypatch.setenv("ATLAS_CACHE", str(folder))
    return folder
