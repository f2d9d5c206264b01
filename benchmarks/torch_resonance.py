"""The peer of the cascade: `spectral.resonance` and the tier's training schedule in PyTorch eager.

Needs `torch`, which the project does not depend on; see `benchmarks/README.md`.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from jaxtyping import Bool, Float, Int, PyTree
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from spectral.resonance import EMBEDDING_SCALE, ResonanceConfig

EPSILON = 1e-6  # of the norms, as in `atlas_jax.nn.norms.rms_norm`
EVALUATION_BATCH = 8  # windows, as in `validation.tiers`


class FrequencyLayer(nn.Module):
    """(convolution(x V) * silu(x G)) O with one bank of damped modes a head, over one chunk."""

    def __init__(self, config: ResonanceConfig, length: int) -> None:
        super().__init__()
        d = config.d_model
        self.heads, self.length = config.heads, length
        for name in ("log_rate", "frequency", "real", "imaginary"):
            self.register_parameter(name, nn.Parameter(torch.empty(config.heads, config.modes)))
        self.project_in = nn.Linear(d, 2 * d, bias=False)
        self.project_out = nn.Linear(d, d, bias=False)
        self.register_buffer("lags", torch.arange(length, dtype=torch.float32))

    def kernel(self) -> Tensor:
        """Taps [h, t]."""
        decay = torch.exp(-torch.exp(self.log_rate)[..., None] * self.lags)
        angle = self.frequency[..., None] * self.lags
        wave = self.real[..., None] * torch.cos(angle) - self.imaginary[..., None] * torch.sin(angle)
        return (decay * wave).sum(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, d = x.shape
        value, gate = self.project_in(x).chunk(2, dim=-1)
        # Every window of the reversed, zero-padded taps is a row of the Toeplitz matrix [h, t, s], the last one first.
        padded = F.pad(self.kernel().flip(1), (0, length - 1))
        matrix = padded.unfold(1, length, 1).flip(1)
        mixed = torch.einsum("hts,bshk->bthk", matrix, value.reshape(batch, length, self.heads, d // self.heads))
        return self.project_out(mixed.reshape(batch, length, d) * F.silu(gate))


class Block(nn.Module):
    """norm, frequency layer, residual; norm, feed-forward with a squared ReLU, residual."""

    def __init__(self, config: ResonanceConfig, length: int) -> None:
        super().__init__()
        d = config.d_model
        self.mixer_norm = nn.RMSNorm(d, eps=EPSILON)
        self.mixer = FrequencyLayer(config, length)
        self.feed_forward_norm = nn.RMSNorm(d, eps=EPSILON)
        self.up = nn.Linear(d, config.feed_forward * d, bias=False)
        self.down = nn.Linear(config.feed_forward * d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.down(F.relu(self.up(self.feed_forward_norm(x))).square())


class Resonance(nn.Module):
    """Logits [b, t, v] of tokens [b, t]."""

    def __init__(self, config: ResonanceConfig, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.Sequential(*(Block(config, length) for _ in range(config.layers)))
        self.norm = nn.RMSNorm(config.d_model, eps=EPSILON)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embedding(tokens) * EMBEDDING_SCALE)))


def named_arrays(params: PyTree, layers: int) -> dict[str, np.ndarray]:
    """The parameters of `spectral.resonance` under the names and layouts of `Resonance.state_dict`.

    Args:
      params: of one model, or gradients in the same tree.
      layers: blocks of the model.
    """
    named = {
        "embedding.weight": params["embedding"],
        "norm.weight": params["norm"],
        "head.weight": np.transpose(params["head"]),
    }
    for layer in range(layers):
        blocks = params["blocks"]
        mixer, feed_forward = blocks["mixer"], blocks["feed_forward"]
        named |= {
            f"blocks.{layer}.mixer_norm.weight": blocks["mixer_norm"]["scale"][layer],
            f"blocks.{layer}.feed_forward_norm.weight": blocks["feed_forward_norm"]["scale"][layer],
            f"blocks.{layer}.mixer.project_in.weight": np.transpose(mixer["in"][layer]),
            f"blocks.{layer}.mixer.project_out.weight": np.transpose(mixer["out"][layer]),
            f"blocks.{layer}.up.weight": np.transpose(feed_forward["up"][layer]),
            f"blocks.{layer}.down.weight": np.transpose(feed_forward["down"][layer]),
        }
        for name in ("log_rate", "frequency", "real", "imaginary"):
            named[f"blocks.{layer}.mixer.{name}"] = mixer[name][layer]
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def build(config: ResonanceConfig, params: PyTree, length: int) -> Resonance:
    """A model that starts from the given parameters of `spectral.resonance`."""
    model = Resonance(config, length)
    arrays = named_arrays(params, config.layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.data = torch.from_numpy(arrays.pop(name).copy())
    if arrays:
        raise ValueError(f"torch_resonance: no place for the parameters {', '.join(sorted(arrays))}")
    return model


def adam(model: Resonance) -> torch.optim.Adam:
    """The tiers' optimizer; fused was the fastest of PyTorch's three forms at all widths."""
    return torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.99), eps=1e-8, fused=True)


def loss(model: Resonance, windows: Tensor) -> Tensor:
    """Mean loss in nats over windows [b, t + 1]."""
    return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())


def train_step(model: Resonance, optimizer: torch.optim.Adam, windows: Tensor, rate: float) -> Tensor:
    """One step on windows [b, t + 1]; the mean loss in nats, before it."""
    optimizer.zero_grad(set_to_none=True)
    before = loss(model, windows)
    before.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return before.detach()


@dataclass(frozen=True)
class Work:
    """What one model trains on.

    Attributes:
      windows: tokens of its training windows.
      order: windows of every step's batch.
      rates: learning rates of each branch, from step 0 to the branch's end.
      decay_starts: step at which each branch leaves the trunk.
      held_out, measured: windows that every decayed checkpoint is measured on, and which of their targets count.
    """

    windows: Int[np.ndarray, "n t1"]
    order: Int[np.ndarray, "s b"]
    rates: list[Float[np.ndarray, " end"]]
    decay_starts: list[int]
    held_out: Int[np.ndarray, "k t1"]
    measured: Bool[np.ndarray, "k t"]

    @property
    def steps(self) -> int:
        """Optimizer steps in all, those of the decays included."""
        return self.decay_starts[-1] + sum(
            len(rates) - start for rates, start in zip(self.rates, self.decay_starts, strict=True)
        )


@dataclass(frozen=True)
class Trained:
    """Held-out loss in bits per token at each decayed checkpoint, and what training and measuring took."""

    losses: list[float]
    seconds: float


def train(config: ResonanceConfig, params: PyTree, work: Work) -> Trained:
    """Trains one model with all its branches and measures each, as `validation.tiers.train_tier` does for many."""
    length = work.windows.shape[1] - 1
    model = build(config, params, length)
    # Embedding and cross_entropy want int64; converted once.
    windows, held_out = torch.from_numpy(work.windows).long(), torch.from_numpy(work.held_out).long()
    order, measured = torch.from_numpy(work.order).long(), torch.from_numpy(work.measured)
    started = time.perf_counter()
    optimizer, losses = adam(model), []
    done = 0
    for rates, decay_start in zip(work.rates, work.decay_starts, strict=True):
        for step in range(done, decay_start):
            train_step(model, optimizer, windows[order[step]], float(rates[step]))
        done = decay_start
        branch, branch_optimizer = _copy(model, optimizer)
        for step in range(decay_start, len(rates)):
            train_step(branch, branch_optimizer, windows[order[step]], float(rates[step]))
        losses.append(held_out_loss(branch, held_out, measured))
    return Trained(losses, time.perf_counter() - started)


def _copy(model: Resonance, optimizer: torch.optim.Adam) -> tuple[Resonance, torch.optim.Adam]:
    twin = copy.deepcopy(model)
    twin_optimizer = adam(twin)
    state: dict[str, Any] = copy.deepcopy(optimizer.state_dict())
    twin_optimizer.load_state_dict(state)
    return twin, twin_optimizer


@torch.no_grad()
def held_out_loss(model: Resonance, windows: Tensor, measured: Tensor) -> float:
    """Mean loss of the measured targets in bits per token."""
    losses = [
        F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten(), reduction="none")
        for part in windows.split(EVALUATION_BATCH)
    ]
    return float(torch.cat(losses)[measured.flatten()].double().mean() / np.log(2))
