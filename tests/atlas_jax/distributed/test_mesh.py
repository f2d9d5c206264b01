"""Which devices a mesh uses, and how host devices and caches are set up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_jax.distributed.mesh import (
    BATCH,
    VARIANT,
    accelerator_memory,
    cache_directory,
    idle_variants,
    mesh_shape,
    usable_cores,
    use_host_devices,
    variant_mesh,
)

COUNT = st.integers(1, 24)


@given(COUNT, COUNT, st.integers(1, 16))
def test_no_mesh_that_divides_the_counts_is_busier(variants, batch, devices):
    side, split = mesh_shape(variants, batch, devices)
    assert variants % side == 0
    assert batch % split == 0
    assert side * split <= devices
    possible = [
        (v * b, v)
        for v in range(1, devices + 1)
        for b in range(1, devices // v + 1)
        if variants % v == 0 and batch % b == 0
    ]
    assert (side * split, side) == max(possible)


@pytest.mark.parametrize(
    ("variants", "batch", "devices", "shape"),
    [(5, 4, 2, (1, 2)), (10, 4, 2, (2, 1)), (5, 4, 4, (1, 4)), (6, 4, 4, (2, 2)), (1, 4, 3, (1, 2)), (1, 8, 6, (1, 4))],
)
def test_mesh_of_odd_counts(variants, batch, devices, shape):
    assert mesh_shape(variants, batch, devices) == shape


@pytest.mark.parametrize(
    ("variants", "batch", "devices", "idle"),
    [(10, 128, 2, 0), (5, 64, 3, 1), (3, 32, 4, 0), (5, 1, 4, 1), (5, 3, 3, 0)],
)
def test_idle_copies_only_where_they_save_a_round(variants, batch, devices, idle):
    assert idle_variants(variants, batch, devices) == idle


@pytest.mark.parametrize(
    ("variants", "batch", "shape"), [(4, 4, (4, 1)), (5, 4, (1, 4)), (6, 4, (2, 2)), (3, 1, (3, 1))]
)
def test_mesh_takes_the_first_devices(variants, batch, shape):
    mesh = variant_mesh(variants, batch)
    assert (mesh.shape[VARIANT], mesh.shape[BATCH]) == shape
    assert set(mesh.devices.flat) == set(jax.devices()[: shape[0] * shape[1]])
    assert variant_mesh(variants, batch, jax.devices()[2:3]).devices.tolist() == [[jax.devices()[2]]]


def test_host_devices_stay_once_jax_runs():
    assert len(jax.devices()) == 4
    use_host_devices(2)
    assert len(jax.devices()) == 4


@pytest.mark.parametrize("count", [0, -1])
def test_no_host_devices_are_none(count):
    with pytest.raises(ValueError, match=f"use_host_devices: count is {count}, expected at least 1"):
        use_host_devices(count)


@pytest.mark.parametrize(("argument", "count"), [("3", 3), ("", usable_cores())])
def test_host_devices_are_made_before_jax_runs(argument, count):
    program = f"""
import jax
from atlas_jax.distributed.mesh import use_host_devices
use_host_devices({argument})
assert len(jax.devices()) == {count}, jax.devices()
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)


def test_memory_is_taken_as_told_and_as_the_user_says(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    accelerator_memory(0.9)
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")
    accelerator_memory(0.9)
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.90"


def test_cache_goes_where_it_is_told(monkeypatch):
    monkeypatch.setenv("ATLAS_CACHE", "/somewhere/atlas")
    assert cache_directory() == Path("/somewhere/atlas")
    monkeypatch.delenv("ATLAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert cache_directory() == Path("/somewhere/cache/atlas-jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere/home")
    assert cache_directory() == Path("/somewhere/home/.cache/atlas-jax")
