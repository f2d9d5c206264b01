"""Matrix products of memories: those of tokens and weights, and `exact` ones.

JAX derives the gradient by y of x y as (g^T x)^T, and XLA's product on CPUs is slow for that order where y is wide; see
`atlas_jax.nn.linear`. `matmul`, `matmul_nt` and `matmul_tn` are one another's derivatives, so that gradients of gradients are
such products too. Reverse mode only.

With a `dtype`, both factors are rounded to it and the sums are kept in the dtype of x: bfloat16 is what matrix units multiply
fast, and float32 what a memory adds up in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Dtype = str | None  # of the factors; None: as they are


def exact(x: Array, y: Array) -> Array:
    """x y as `jnp.matmul` has it, to all bits of the dtype on every device, derivatives too: a GPU's usual product of float32
    keeps 10 bits."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _dot(x: Array, y: Array, dtype: Dtype, left: int, right: int) -> Array:
    sums = x.dtype
    if dtype is not None:
        x, y = x.astype(dtype), y.astype(dtype)
    return jax.lax.dot_general(x, y, (((left,), (right,)), ((), ())), preferred_element_type=sums)


_with_own_derivative: Any = partial(jax.custom_vjp, nondiff_argnums=(2,))  # called by position


@_with_own_derivative
def matmul(x: Float[Array, "t i"], y: Float[Array, "i o"], dtype: Dtype = None) -> Float[Array, "t o"]:
    """x y."""
    return _dot(x, y, dtype, 1, 0)


@_with_own_derivative
def matmul_nt(x: Float[Array, "t i"], y: Float[Array, "s i"], dtype: Dtype = None) -> Float[Array, "t s"]:
    """x y^T."""
    return _dot(x, y, dtype, 1, 1)


@_with_own_derivative
def matmul_tn(x: Float[Array, "t i"], y: Float[Array, "t o"], dtype: Dtype = None) -> Float[Array, "i o"]:
    """x^T y."""
    return _dot(x, y, dtype, 0, 0)


def _saving(product: Callable[..., Array]) -> Callable[..., tuple[Array, tuple[Array, Array]]]:
    return lambda x, y, dtype: (product(x, y, dtype), (x, y))


def _fixed(x: Array) -> Array:
    """The barrier keeps XLA from folding the order back into the slow one."""
    return jax.lax.optimization_barrier(x)


def _matmul_back(dtype: Dtype, saved: tuple[Array, Array], g: Array) -> tuple[Any, Any]:
    x, y = saved
    return matmul_nt(g, y, dtype), _fixed(matmul_tn(x, g, dtype))


def _matmul_nt_back(dtype: Dtype, saved: tuple[Array, Array], g: Array) -> tuple[Any, Any]:
    x, y = saved
    return matmul(g, y, dtype), _fixed(matmul_tn(g, x, dtype))


def _matmul_tn_back(dtype: Dtype, saved: tuple[Array, Array], g: Array) -> tuple[Any, Any]:
    x, y = saved
    return matmul_nt(y, g, dtype), matmul(x, g, dtype)


matmul.defvjp(_saving(matmul), _matmul_back)
matmul_nt.defvjp(_saving(matmul_nt), _matmul_nt_back)
matmul_tn.defvjp(_saving(matmul_tn), _matmul_tn_back)
