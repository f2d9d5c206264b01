"""Strict settings for every test: four host devices, no silent promotion, warnings are errors, compiled code cached."""

import itertools
import os
import signal
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from hypothesis import HealthCheck, settings

from atlas_jax.distributed.mesh import compilation_cache

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
compilation_cache()
jax.devices()  # before a command under test could choose how many there are

# A test worker, like a job in the background, may ignore interrupts; the programs that tests start and interrupt must not.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Compilation makes the first example of a property slow, so a deadline would only measure the compiler.
settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")

TESTS = itertools.count(1)
MAPS = Path("/proc/self/maps")
MOST_MAPS = 25_000


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Forgets compiled programs when there are many; what is needed again comes from the cache on disk.

    They take memory maps, of which Linux allows a process 65,530: with the programs of all tests XLA crashed.
    """
    if next(TESTS) % 10 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def key():
    return jax.random.key(0)
