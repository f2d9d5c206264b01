"""The blocks of `benchmarks.block_scaling` in PyTorch eager: the same functions of the same parameter trees.

Written for eager mode on a CPU: the convolutions are two batched matmuls over all chunks at once, and the states between the
chunks come from matmuls too, in two or three levels, since a loop over a thousand chunks in Python would cost more than
the arithmetic. The modes of an Eigenstate block are summed into a kernel, so that nothing is as large as modes x width x T;
that is the same sum in another order. Needs `torch`, which the project does not depend on; see `benchmarks/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from jaxtyping import PyTree
from torch import Tensor  # pyright: ignore[reportMissingImports]

from atlas_jax.models.transformer import TransformerConfig, rotary_base
from spectral.eigenstate import EigenstateConfig
from spectral.eigenstate_layers import LOG_RATE
from spectral.resonance import ResonanceConfig

EPSILON = 1e-6  # of the norms, as in `atlas_jax.nn.norms.rms_norm`
LEVEL = 32  # states that one matrix of the recurrence covers

Parameters = dict[str, Any]  # nested, the names and layouts of the JAX parameters
Block = Callable[[Parameters, Tensor], Tensor]


def _triangle(log_factor: Tensor, size: int) -> Tensor:
    """exp(log_factor)**(t - s) for t >= s, else 0: [*s, t, s]."""
    place = torch.arange(size)
    lags = place[:, None] - place[None]
    return torch.exp(log_factor[..., None, None] * lags.clamp(min=0)) * (lags >= 0)


def recurrence(log_factor: Tensor, added: Tensor) -> Tensor:
    """c[n] = exp(log_factor) c[n - 1] + added[n], from zero; log_factor [h, m], added [h, m, n, k], both complex."""
    count = added.shape[2]
    if count <= LEVEL:
        return torch.einsum("hmij,hmjk->hmik", _triangle(log_factor, count), added)
    blocks = F.pad(added, (0, 0, 0, -count % LEVEL)).unflatten(2, (-1, LEVEL))
    inside = torch.einsum("hmij,hmnjk->hmnik", _triangle(log_factor, LEVEL), blocks)
    ends = recurrence(LEVEL * log_factor, inside[:, :, :-1, -1])
    carried = torch.exp(log_factor[..., None] * torch.arange(1, LEVEL + 1))
    # The first block starts from zero.
    later = inside[:, :, 1:] + carried[:, :, None, :, None] * ends[:, :, :, None]
    return torch.cat([inside[:, :, :1], later], dim=2).flatten(2, 3)[:, :, :count]


def modal_convolution(x: Tensor, log_factor: Tensor, coefficients: Tensor, chunk: int) -> Tensor:
    """y[t] = sum over s <= t of Re(sum_m c lambda**(t - s)) x[s], for each of o sets of coefficients.

    Args:
      x: real, [b, t, h, k]; t is at most `chunk` or a multiple of it.
      log_factor: log of lambda, complex, [h, m].
      coefficients: c, complex, [h, o, m].
      chunk: tokens per Toeplitz matrix.

    Returns:
      [o, b, t, h, k].
    """
    batch, length, heads, width = x.shape
    chunk = min(chunk, length)
    chunks, outputs, modes = length // chunk, coefficients.shape[1], log_factor.shape[1]
    by_head = x.reshape(batch, chunks, chunk, heads, width).permute(3, 2, 0, 1, 4).reshape(heads, chunk, -1)
    powers = torch.exp(log_factor[..., None] * torch.arange(chunk + 1))  # [h, m, c + 1]
    into = powers[:, :, :chunk].flip(2)
    taps = torch.einsum("hom,hmc->hoc", coefficients, powers[:, :, :chunk]).real
    # Every window of the reversed, zero-padded taps is a row of the Toeplitz matrix, the last one first.
    toeplitz = F.pad(taps.flip(2), (0, chunk - 1)).unfold(2, chunk, 1).flip(2).reshape(heads, outputs * chunk, chunk)
    matrix = torch.cat([toeplitz, into.real, into.imag], dim=1)
    y, real, imaginary = torch.bmm(matrix, by_head).split([outputs * chunk, modes, modes], dim=1)
    if chunks > 1:
        summaries = torch.complex(real, imaginary).unflatten(2, (batch, chunks, width))
        added = summaries[:, :, :, :-1].transpose(2, 3).flatten(3)
        states = recurrence(chunk * log_factor, added).unflatten(3, (batch, width)).transpose(2, 3)
        states = F.pad(states, (0, 0, 1, 0)).flatten(2)  # before each chunk
        out = torch.einsum("hom,hmc->hocm", coefficients, powers[:, :, 1:]).flatten(1, 2)
        y = torch.baddbmm(y, torch.cat([out.real, -out.imag], dim=2), torch.cat([states.real, states.imag], dim=1))
    y = y.reshape(heads, outputs, chunk, batch, chunks, width).permute(1, 3, 4, 2, 0, 5)
    return y.reshape(outputs, batch, length, heads, width)


def _feed_forward(params: Parameters, x: Tensor) -> Tensor:
    return F.relu(x @ params["up"]).square() @ params["down"]


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    return F.rms_norm(x, scale.shape, scale, EPSILON)


def resonance(config: ResonanceConfig) -> Block:
    """`spectral.layers.ResonanceLayer` without a state, band gate and channel mixing."""

    def mixer(params: Parameters, x: Tensor) -> Tensor:
        value, gate = (x @ params["in"]).chunk(2, dim=-1)
        log_factor = torch.complex(-torch.exp(params["log_rate"]), params["frequency"])
        coefficients = torch.complex(params["real"], params["imaginary"])[:, None]
        (bands,) = modal_convolution(value.unflatten(2, (config.heads, -1)), log_factor, coefficients, config.chunk)
        return (bands.flatten(2) * F.silu(gate)) @ params["out"]

    def block(params: Parameters, x: Tensor) -> Tensor:
        x = x + mixer(params["mixer"], _norm(x, params["mixer_norm"]["scale"]))
        return x + _feed_forward(params["feed_forward"], _norm(x, params["feed_forward_norm"]["scale"]))

    return block


def eigenstate(config: EigenstateConfig, chunk: int) -> Block:
    """`spectral.eigenstate_layers.EigenstateLayer` with fixed modes, without a state.

    Args:
      config: of the model.
      chunk: tokens, or blocks of a head's scale, per Toeplitz matrix.
    """

    def read(params: Parameters, drive: Tensor, heads: slice, scale: int) -> Tensor:
        """What the heads of one scale say, [b, t, h, 2 w]: real part, imaginary part."""
        batch, length, count, width = drive.shape
        rate = torch.exp(params["cell"]["log_rate"][heads].clamp(*LOG_RATE))
        power = torch.sqrt(-torch.expm1(-2 * rate))
        coupling = torch.complex(params["coupling"]["real"][heads], params["coupling"]["imaginary"][heads]) * power
        means = drive.reshape(batch, length // scale, scale, count, width).mean(dim=2)
        log_factor = torch.complex(-rate, params["cell"]["frequency"][heads])
        # Re(c lambda**t) and Im(c lambda**t) of the kernel, each with the real and the imaginary part of the drive.
        both = modal_convolution(means, log_factor, torch.stack([coupling, -1j * coupling], dim=1), chunk)
        (rr, ri), (ir, ii) = (part.chunk(2, dim=-1) for part in both)
        blocks = torch.cat([rr - ii, ri + ir], dim=-1)
        return F.pad(blocks.repeat_interleave(scale, dim=1), (0, 0, 0, 0, scale - 1, 0))[:, :length]

    def mixer(params: Parameters, x: Tensor) -> Tensor:
        drive = (x @ params["cell"]["in"]).unflatten(2, (config.heads, -1))
        each = config.heads // len(config.scales)
        groups = [slice(n * each, (n + 1) * each) for n in range(len(config.scales))]
        said = [read(params, drive[:, :, h], h, scale) for h, scale in zip(groups, config.scales, strict=True)]
        gate = F.silu(x @ params["gate"]["gate"])
        return (torch.cat(said, dim=2).flatten(2) * gate) @ params["gate"]["out"]

    def block(params: Parameters, x: Tensor) -> Tensor:
        x = x + mixer(params["mixer"], _norm(x, params["mixer_norm"]["scale"]))
        return x + _feed_forward(params["feed_forward"], _norm(x, params["feed_forward_norm"]["scale"]))

    return block


def transformer(config: TransformerConfig, dtype: str) -> Block:
    """A block of `atlas_jax.models.transformer` on `config.context` tokens of `dtype`, with PyTorch's fused attention."""
    width = config.d_model // config.heads
    angles = np.arange(config.context)[:, None] * rotary_base(config) ** (-np.arange(0, width, 2) / width)
    cosine, sine = (torch.from_numpy(part.astype(dtype)) for part in (np.cos(angles), np.sin(angles)))

    def rotate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    def attention(params: Parameters, x: Tensor) -> Tensor:
        projected = (x @ params["query_key_value"]).unflatten(2, (3, config.heads, width)).permute(2, 0, 3, 1, 4)
        query, key, value = projected  # [b, h, t, k]
        query = rotate(_norm(query, params["query_norm"]) + params["query_bias"][:, None])
        key = rotate(_norm(key, params["key_norm"]) + params["key_bias"][:, None])
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).flatten(2) @ params["out"]

    def block(params: Parameters, x: Tensor) -> Tensor:
        x = x + attention(params, _norm(x, params["attention_norm"]))
        up, gate = (_norm(x, params["feed_forward_norm"]) @ params["up_gate"]).chunk(2, dim=-1)
        return x + (up * F.silu(gate)) @ params["down"]

    return block


def tensors(arrays: PyTree) -> Parameters:
    """Nested dictionaries of arrays as leaves that gradients are taken for."""
    return {
        name: tensors(part) if isinstance(part, dict) else torch.tensor(np.array(part), requires_grad=True)
        for name, part in arrays.items()
    }


def leaves(params: Parameters) -> list[Tensor]:
    """The tensors in the order of `jax.tree.leaves`."""
    found = []
    for _, part in sorted(params.items()):
        found += leaves(part) if isinstance(part, dict) else [part]
    return found


def forward(block: Block, params: Parameters, x: Tensor) -> Tensor:
    """Outputs alone: nothing is kept for a backward pass."""
    with torch.no_grad():
        return block(params, x)


def step(block: Block, params: Parameters, x: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and gradients of sum(outputs * weights): of the inputs, then of the parameters in the order of `leaves`."""
    x = x.detach().requires_grad_()
    y = block(params, x)
    return y.detach(), list(torch.autograd.grad(y, [x, *leaves(params)], weights))


def use_threads(count: int) -> None:
    """How many cores PyTorch may use."""
    torch.set_num_threads(count)


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor on the memory of the array."""
    return torch.from_numpy(array)
