# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Attention-free models: train, look inside, generate, foretell
#
# A small Resonance learns the standard library's documentation, Temporal Eigenstate a series with a daily wave. Both carry a
# state whose size does not depend on how much they have read.

# %%
# %matplotlib inline
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from atlas_jax.data import Batches, pack, train_bpe
from atlas_jax.models import describe, presets
from atlas_jax.training import adamw, cosine, init_state, make_step, train
from spectral import eigenstate, heads, introspection, resonance
from validation.datasets.standard_library import standard_library_rows

STEPS = 600 // int(os.environ.get("NOTEBOOK_STRIDE", "1"))

# %% [markdown]
# ## What there is

# %%
[describe(name, preset) for name, preset, _ in presets()]

# %% [markdown]
# ## Train on text

# %%
rows = standard_library_rows()
tokenizer = train_bpe(rows, 1024)
windows = pack(tokenizer.encode_batch(rows), length=128, eos=tokenizer.eos, row_ids=range(len(rows)))
config = replace(resonance.PRESETS["micro-128"], vocab_size=tokenizer.vocab_size)


def loss(params, batch, key):
    """Mean cross-entropy in nats; nothing in the model is random."""
    tokens = batch["tokens"]
    return jnp.mean(resonance.token_losses(config, params, tokens[:, :-1], tokens[:, 1:])[0]), {}


optimizer, key = adamw(), jax.random.key(0)
state = init_state(resonance.init(config, key), optimizer, key)
schedule = cosine(0.013, warmup=STEPS // 20, steps=STEPS)
losses = []
for event in train(make_step(loss, optimizer), state, Batches(windows, 4, seed=0), schedule, steps=STEPS):
    losses.append(float(event.metrics["loss"]) / np.log(2))
params = event.state.params
print(f"training loss {losses[0]:.2f} -> {np.mean(losses[-20:]):.2f} bits per token")

# %% [markdown]
# ## Look inside
#
# The gain of every band, its eigenvalues in the unit circle, and how much of the work each band does on real text.

# %%
sample = jnp.asarray(windows.tokens[:8, :-1])
introspection.figure(config, params, sample)

# %%
outputs = introspection.layer_outputs(config, params, sample)
{f"layer {n + 1}": introspection.spectral_metrics(output) for n, output in enumerate(outputs)}

# %% [markdown]
# ## Generate
#
# The prompt is fed whole, then every token costs the same, however many came before.

# %%
from atlas_jax.models.generate import generate

prompt = jnp.asarray(tokenizer.encode_batch(["Return the"])[0][None])
tokens, carried = generate(
    resonance, config, params, prompt, jax.random.key(1), tokens=60, temperature=0.8, top_k=50, top_p=0.95
)
print(tokenizer.decode([*prompt[0].tolist(), *tokens[0].tolist()]))
print("state:", sum(leaf.nbytes for leaf in carried), "bytes")

# %% [markdown]
# ## Foretell a series
#
# Ten days in, two days ahead, with quantiles; a day of 24 values is one time step.

# %%
rng = np.random.default_rng(0)
hours = np.arange(24 * 200)
series = np.sin(2 * np.pi * hours / 24) * (1 + 0.3 * np.sin(2 * np.pi * hours / 168)) + 0.15 * rng.normal(
    size=hours.size
)
days, ahead = 10, 48
starts = np.arange(len(series) - 24 * days - ahead + 1)
examples = np.stack([series[s : s + 24 * days + ahead] for s in starts]).astype(np.float32)
small = eigenstate.EigenstateConfig(d_model=16, layers=1, heads=2, scales=(1,), context=days)
head = heads.ForecastHead(horizon=ahead, channels=1)


def foretell(params, past):
    """Quantiles [b, ahead, 3] of the two days after each window."""
    normal, scale = heads.normalise_window(past[..., None])
    features, _ = eigenstate.features_of_series(small, params["model"], normal.reshape(-1, days, 24))
    return heads.restore(heads.forecast(head, params["head"], features), scale)[:, :, 0]


def pinball(params, batch, key):
    """Loss whose minimum is at the quantiles."""
    found = foretell(params, batch[:, : 24 * days])
    return heads.pinball_loss(head, found[:, :, None], batch[:, 24 * days :, None]), {}


class Windows:
    """Random windows of the first 170 days."""

    def at(self, position):
        """Batch number `position`."""
        return examples[np.random.default_rng(position).integers(0, 24 * 158, 32)]


keys = jax.random.split(jax.random.key(2))
start = {"model": eigenstate.init_series(small, 24, keys[0]), "head": heads.init_forecast(head, 16, keys[1])}
rates = cosine(0.01, warmup=10, steps=STEPS)
state = init_state(start, optimizer, jax.random.key(3))
*_, event = train(make_step(pinball, optimizer), state, Windows(), rates, steps=STEPS)
later = examples[24 * 172 :]
low, middle, high = np.moveaxis(np.asarray(foretell(event.state.params, jnp.asarray(later[:, : 24 * days]))), 2, 0)
came = later[:, 24 * days :]
inside = (low < came) & (came < high)
print(f"mean error {np.abs(middle - came).mean():.3f}; between the quantiles .1 and .9: {inside.mean():.0%}")

# %%
_, axes = plt.subplots(figsize=(9, 3), layout="constrained")
axes.plot(np.arange(-72, 0), later[0, 24 * days - 72 : 24 * days], color="0.4", label="past")
axes.plot(np.arange(ahead), came[0], "k.", markersize=4, label="what came")
axes.plot(np.arange(ahead), middle[0], color="C0", label="median")
axes.fill_between(np.arange(ahead), low[0], high[0], color="C0", alpha=0.25, label="quantiles .1 to .9")
axes.set(xlabel="hours", title="Two days foretold")
axes.legend(ncols=4, fontsize=8)
plt.show()
