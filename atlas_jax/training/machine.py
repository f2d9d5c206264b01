"""The machine that a figure was measured on, for the files in which decisions are kept."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


def machine() -> dict[str, Any]:
    """Devices, processor and versions that figures were measured with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu": (models or [platform.processor()])[0],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("atlas-jax", "jax", "jaxlib", "flax", "numpy")},
    }
