"""What the tests of the cascade share: a cache of their own for controls, with the compiled programs of every run."""

from __future__ import annotations

import pytest

from atlas_jax.distributed.mesh import cache_directory


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
