"""The only place where meshes are made and host devices are configured."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh

VARIANT, BATCH = "variant", "batch"  # many small models, each whole on its devices
DATA, TENSOR, SEQUENCE = "data", "tensor", "sequence"  # one model: its batch, its weights, its time
MODEL_AXES = (DATA, TENSOR, SEQUENCE)


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


def accelerator_memory(share: float) -> None:
    """Takes that share of each accelerator's memory at the start, and no more later; without effect once JAX runs.

    A value that the user has set stays.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.2f}")


def use_host_devices(count: int | None = None) -> None:
    """Makes each CPU core a device of its own, so that independent models train side by side.

    Args:
      count: how many; default one per usable core.

    Without effect on accelerators, and where JAX already runs (a notebook that has used it): its devices stay as they
    are.

    Raises:
      ValueError: the count is below 1.
    """
    count = usable_cores() if count is None else count
    if count < 1:
        raise ValueError(f"use_host_devices: count is {count}, expected at least 1")
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


def idle_variants(variants: int, batch: int, devices: int) -> int:
    """How many copies to train beside the variants for nothing, so that all are finished soonest.

    Five variants on three devices, their batch of 64 in up to two equal parts: as six, three at a time, they take two rounds;
    as five, each on two devices, two and a half.
    """

    def rounds(count: int) -> float:
        return count / math.prod(mesh_shape(count, batch, devices))

    return min(range(devices), key=lambda idle: (rounds(variants + idle), idle))


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


def _model_shape(data: int, tensor: int, sequence: int) -> tuple[int, int, int]:
    for name, size in zip(MODEL_AXES, (data, tensor, sequence), strict=True):
        if size < 1:
            raise ValueError(f"model mesh: {name} is {size}, expected at least 1 device")
    return data, tensor, sequence


def model_mesh(
    data: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm] (bound to a variable in JAX)
) -> Mesh:
    """The (data, tensor, sequence) mesh of one model split over several devices.

    Args:
      data: parts of the batch.
      tensor: parts of the weights: heads, inner channels of the feed-forward, vocabulary.
      sequence: parts of the time axis.
      devices: default all; the first data x tensor x sequence of them are taken.

    Raises:
      ValueError: a size is below 1, or there are fewer devices than their product.
    """
    shape = _model_shape(data, tensor, sequence)
    devices = list(devices) if devices is not None else jax.devices()
    if math.prod(shape) > len(devices):
        raise ValueError(
            f"model mesh: data x tensor x sequence = {data} x {tensor} x {sequence} = {math.prod(shape)}, expected at most "
            f"the {len(devices)} devices there are"
        )
    return jax.make_mesh(shape, MODEL_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[: math.prod(shape)])


def abstract_model_mesh(
    data: int = 1, tensor: int = 1, sequence: int = 1, device_kind: str = "NVIDIA H200"
) -> AbstractMesh:
    """The same mesh over GPUs that need not be there: enough to trace and lower a program for them.

    Raises:
      ValueError: a size is below 1.
    """
    device = AbstractDevice(device_kind=device_kind, num_cores=None, platform="gpu")
    shape = _model_shape(data, tensor, sequence)
    return AbstractMesh(shape, MODEL_AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=device)


def use(mesh: Mesh | AbstractMesh | None) -> AbstractContextManager[object]:
    """Makes a mesh the ambient one of what is traced inside; None: no mesh, whatever is outside."""
    return jax.sharding.use_abstract_mesh(AbstractMesh((), ()) if mesh is None else mesh.abstract_mesh)


def ambient_model_mesh() -> AbstractMesh | None:
    """The model mesh that the code being traced is for: that of `use` or `jax.set_mesh`, None without one.

    None too inside a `shard_map` over it: what runs there is one device's share.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.axis_names == MODEL_AXES and mesh.are_all_axes_auto else None


def platform() -> str:
    """What the code being traced will run on, "cpu", "gpu" or another: the ambient mesh's devices, else the default ones."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
