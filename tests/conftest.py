"""Strict settings for every test: four host devices, no silent promotion, warnings are errors, compiled code cached."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from hypothesis import HealthCheck, settings

from atlas_jax.distributed.mesh import compilation_cache

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
compilation_cache()

# Compilation makes the first example of a property slow, so a deadline would only measure the compiler.
settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Each takes memory maps, of which Linux allows a process 65,530: with all tests' programs in one, XLA crashed."""
    yield
    jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)
