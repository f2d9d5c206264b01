"""Every rule: any split of a sequence gives what the whole gives, and no token changes anything before it."""

from functools import cache, partial

import jax
import numpy as np
import pytest
from compiling import compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_world import LENGTH, RULES, part, random_beginning, random_tokens

from atlas_jax.memory.sequence import MemoryConfig, run

# A window longer than a chunk, shards of several, keys counted by chunk and by shard, chunks of two tiles and of parts of one.
CONFIGS = {
    "titans": MemoryConfig(RULES["titans"], 7, projection="norm_sum", tile=3),
    "omega": MemoryConfig(RULES["omega"], 4, 8, tile=2),
    "muon": MemoryConfig(RULES["muon"], 4, 12, "per_key"),
    "lact": MemoryConfig(RULES["lact"], 8),
    "delta": MemoryConfig(RULES["delta"], 4, 8, "per_key", "chunk", tile=2),
}
PARTS = (1, 3, 11)  # few, as each compiles a program: less than a chunk, more than one and than a shard
PLACES = np.array([0, 3, 4, 7, 8, LENGTH - 1])  # changed, one in each sequence
each_rule = pytest.mark.parametrize("name", CONFIGS)


@cache
def memory(name):
    """With two heads."""
    config = CONFIGS[name]
    persistent = 0 if config.projection is None else 3
    beginning = random_beginning(config.rule.network.name, heads=2, degree=2, persistent=persistent)
    return compiled(partial(run, config, beginning))


@cache
def tokens():
    return random_tokens(batch=len(PLACES), heads=2)


@cache
def whole(name):
    return jax.device_get(memory(name)(tokens()))


@each_rule
@settings(max_examples=15)
@given(parts=st.lists(st.sampled_from(PARTS), min_size=LENGTH))
def test_any_split_gives_what_the_whole_gives(name, parts):
    with jax.enable_x64(True):
        state, outputs, done = None, [], 0
        for size in parts:
            if done + size <= LENGTH:
                out, state = memory(name)(part(tokens(), done, done + size), state)
                outputs.append(out)
                done += size
        expected, end = whole(name)
        np.testing.assert_allclose(np.concatenate(outputs, axis=2), expected[:, :, :done], rtol=0, atol=1e-11)
        if done == LENGTH:
            jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-11), state, end)


@each_rule
def test_the_future_changes_nothing_and_the_past_does(name):
    with jax.enable_x64(True):
        here = np.arange(LENGTH)[None] == PLACES[:, None]
        factor = np.where(here, 0.5, 1.0)[:, None]

        def changed(x):
            return x * factor.reshape(factor.shape + (1,) * (x.ndim - 3))

        after = np.asarray(memory(name)(jax.tree.map(changed, tokens()))[0])
        moved = np.any(after != whole(name)[0], axis=(1, 3))
        shard, chunk = CONFIGS[name].shard or LENGTH, CONFIGS[name].chunk
        place, changed_at = np.arange(LENGTH)[None], PLACES[:, None]
        assert not moved[place < changed_at].any()
        assert moved[here].all()
        later = (place >= (changed_at // chunk + 1) * chunk) & (place < (changed_at // shard + 1) * shard)
        assert moved[later].all()  # of the shard, from the next chunk on
        assert not moved[place >= (changed_at // shard + 1) * shard].any()
