"""Compilation for tests of small programs, where compiling costs far more than running."""

import jax

# LLVM leaves the code as it is, and XLA, where it can still be told, emits the simple one: together about 4 times as fast.
OPTIONS: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    OPTIONS["xla_cpu_use_fusion_emitters"] = False


def compiled(function, **options):
    """Jitted, with little optimisation."""
    return jax.jit(function, compiler_options=OPTIONS, **options)
