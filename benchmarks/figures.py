"""One measured figure as one line of JSON, with the machine it was measured on."""

from __future__ import annotations

import json
import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from atlas_jax.distributed.mesh import usable_cores


@cache
def _hardware() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = {name: _version(name) for name in ("jax", "torch")}
    return {
        "cpu": (names or [platform.processor()])[0],
        "cores": usable_cores(),
        "python": platform.python_version(),
    } | {name: version for name, version in versions.items() if version}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """CPU model, usable cores, versions of Python, JAX and PyTorch (where installed), and the load averages now."""
    return {**_hardware(), "load": [round(load, 2) for load in os.getloadavg()]}


def line(name: str, value: float, unit: str, peer: float | None = None, ratio: float | None = None, **more: Any) -> str:
    """A figure as JSON.

    Args:
      name: what was measured, for example "cascade.tier-1.seconds".
      value: ours.
      unit: of `value` and `peer`.
      peer: the same of what it is compared with; None without a comparison.
      ratio: peer / ours, above 1 where ours needs less; None where a ratio says nothing.
      more: what a reader must know beside it.
    """
    figure = {"name": name, "value": value, "unit": unit, "peer": peer, "ratio": ratio, **more, "machine": machine()}
    return json.dumps({key: _short(item) for key, item in figure.items()})


def _short(item: Any) -> Any:
    return float(f"{item:.6g}") if isinstance(item, float) else item
