"""The only place where meshes are made and host devices are configured."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import AxisType, Mesh

VARIANT, BATCH = "variant", "batch"


def cache_directory() -> Path:
    """Where compiled programs and trained controls are kept: `$ATLAS_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("ATLAS_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atlas-jax"


def compilation_cache() -> None:
    """Keeps every compiled program on disk, small and quick ones too: a second process starts without compiling."""
    jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def usable_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_host_devices(count: int | None = None) -> None:
    """Makes each CPU core a device of its own, so that independent models train side by side.

    Args:
      count: how many; default one per usable core.

    Without effect on accelerators, and where JAX already runs (a notebook that has used it): its devices stay as they
    are.
    """
    count = count or usable_cores()
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # the backend is already initialised
        return


def mesh_shape(variants: int, batch: int, devices: int) -> tuple[int, int]:
    """Sizes of the (variant, batch) mesh that keeps as many devices busy as the counts allow.

    Variants run side by side where they divide evenly; what is left of the devices splits each variant's batch, in
    parts that divide it. Of equally busy shapes the one with more variants side by side wins: it averages less.

    Args:
      variants: models to train.
      batch: windows per step of each model.
      devices: how many there are.
    """

    def divisor(number: int, limit: int) -> int:
        return max(part for part in range(1, limit + 1) if number % part == 0)

    sides = [side for side in range(1, devices + 1) if variants % side == 0]
    shapes = [(side, divisor(batch, devices // side)) for side in sides]
    return max(shapes, key=lambda shape: (math.prod(shape), shape[0]))


def variant_mesh(
    variants: int,
    batch: int,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm] (bound to a variable in JAX)
) -> Mesh:
    """A (variant, batch) mesh in the sizes of `mesh_shape`.

    Five variants on two devices give 1 x 2, so that no device idles in a last odd round; ten give 2 x 1.

    Args:
      variants: models to train.
      batch: windows per step of each model.
      devices: default all.
    """
    devices = list(devices) if devices is not None else jax.devices()
    shape = mesh_shape(variants, batch, len(devices))
    return jax.make_mesh(
        shape,
        (VARIANT, BATCH),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[: math.prod(shape)],
    )
