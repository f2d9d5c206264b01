"""Compilation of what runs a few times in a whole report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

# LLVM leaves the code as it is, and XLA, where it can still be told, emits the simple one: together about 4 times as fast.
_CPU: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    _CPU["xla_cpu_use_fusion_emitters"] = False


def once(function: Callable[..., Any]) -> Any:
    """Jitted, on a CPU with little optimisation: compiling costs more than running it.

    Args:
      function: of arrays; called with shapes of few kinds.
    """
    return jax.jit(function, compiler_options=_CPU if jax.default_backend() == "cpu" else None)
