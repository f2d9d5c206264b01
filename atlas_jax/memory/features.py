"""Polynomial features phi_p of keys and queries, and the scalar kernel that they factorise.

phi_p(x) lists the distinct monomials of x up to degree p, D = C(k + p, p) of them, weighted such that

    phi_p(q) . phi_p(k) = sum_i a_i (q . k)**i,   i = 0..p,

to rounding: a monomial x**alpha of degree i gets the square root of a_i i! / prod(alpha!), by the multinomial theorem. Terms
inside a chunk so use the kernel of the scores q . k, O(k) a pair; only terms with the state need the D features.

The learnable parameter is not a_i >= 0 but the scale s_i with a_i = s_i**2: the square needs no root on the way to the
features, whose weights are linear in s_i, and a_i can reach 0, where softplus only comes close. The sign of s_i means nothing.

Scales that stay at `init_scales` are the exponential kernel exp(q . k), cut off after degree p, as no finite features give all of
it. For unit vectors it is off by at most sum_{i > p} 1 / i!: 0.719, 0.219 and 0.0516 for degrees 1, 2 and 3.

Source: Behrouz et al. 2025 (ATLAS, arXiv:2505.23735), sections on the polynomial kernel and on learnable coefficients. The paper
counts O(k**p) features without naming the monomials' weights; those here make the identity exact.
"""

from __future__ import annotations

from functools import cache
from math import comb, factorial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int

from atlas_jax.memory.products import Dtype, matmul_nt

DEGREES = (1, 2, 3)


def check_degree(degree: int) -> None:
    """Raises ValueError where the degree is not 1, 2 or 3."""
    if degree not in DEGREES:
        raise ValueError(f"degree is {degree}, expected one of {', '.join(map(str, DEGREES))}")


def feature_count(width: int, degree: int) -> int:
    """D = C(width + degree, degree), the number of monomials of at most `degree` in `width` variables.

    Args:
      width: of the keys; 64 with degree 2 makes 2,145 features, 768 would make 296,065.
      degree: highest degree of a monomial, 1 to 3.

    Returns:
      The number of features, the constant included.

    Raises:
      ValueError: degree outside 1 to 3, or width < 1.
    """
    check_degree(degree)
    if width < 1:
        raise ValueError(f"width is {width}, expected at least 1")
    return comb(width + degree, degree)


def init_scales(degree: int, dtype: DTypeLike = jnp.float32) -> Float[Array, " i"]:
    """Scales s_i with s_i**2 = 1 / i!, the coefficients of the exponential: where learnable ones start, and fixed ones stay.

    Args:
      degree: highest degree of a monomial, 1 to 3.
      dtype: of the scales.

    Returns:
      [degree + 1], no unit, for i = 0..degree.

    Raises:
      ValueError: degree outside 1 to 3.
    """
    check_degree(degree)
    return jnp.asarray([factorial(i) ** -0.5 for i in range(degree + 1)], dtype)


@cache
def rotations(width: int, degree: int) -> Int[np.ndarray, "r i"]:
    """Rows of offsets, first 0: each monomial of exactly `degree` is one row turned by one a, prod_j x[(a + row_j) mod width].

    A row turned through all a gives `width` monomials. Where `degree` divides `width` and is above 1, the last row has equal gaps
    and meets itself after width / degree turns; only those count.
    """
    if degree == 1:
        return np.zeros((1, 1), np.int32)
    if degree == 2:
        rows = [(0, second) for second in range(width // 2 + 1)]
    else:  # the first of the three gaps is the smallest one
        rows = [(0, gap, far) for gap in range((width - 1) // 3 + 1) for far in range(2 * gap, width - gap)]
        if width % 3 == 0:
            rows.append((0, width // 3, 2 * width // 3))
    return np.array(rows, np.int32)


@cache
def monomials(width: int, degree: int) -> Int[np.ndarray, "n i"]:
    """Indices of the variables of every monomial of exactly `degree`, in the order of the features."""
    turned = rotations(width, degree)[:, None, :] + np.arange(width, dtype=np.int32)[None, :, None]
    return (turned % width).reshape(-1, degree)[: comb(width + degree - 1, degree)]


@cache
def multinomials(width: int, degree: int) -> Float[np.ndarray, " n"]:
    """i! / prod(alpha!) of every row of `monomials`: how often it occurs in (x_1 + ... + x_k)**i."""
    rows = monomials(width, degree)
    occurrence = np.tril(rows[:, :, None] == rows[:, None, :]).sum(2)  # the variable's 1st, 2nd, ... in its row
    return factorial(degree) / occurrence.prod(1)


def polynomial_features(x: Float[Array, "*n k"], scales: Float[Array, " i"]) -> Float[Array, "*n f"]:
    """phi_p(x), such that phi_p(q) . phi_p(k) = `polynomial_kernel`(q . k).

    Args:
      x: keys or queries.
      scales: s_0..s_p with a_i = s_i**2, no unit; cast to the dtype of x. One set for all of x: vmap over heads for one each.

    Returns:
      [*n, feature_count(k, p)] in the dtype of x: the constant, then degree 1, 2, 3, each in the order of `monomials`.

    Raises:
      ValueError: p outside 1 to 3, or k < 1.
    """
    width, degree = x.shape[-1], scales.shape[0] - 1
    feature_count(width, degree)
    scales = scales.astype(x.dtype)
    parts = [scales[0] * jnp.ones_like(x[..., :1])]
    for i, products in enumerate(_products(x, degree), start=1):
        weights = scales[i] * jnp.asarray(np.sqrt(multinomials(width, i)), x.dtype)
        parts.append(products * jnp.expand_dims(weights, range(x.ndim - 1)))
    return jnp.concatenate(parts, axis=-1)


def _products(x: Float[Array, "*n k"], degree: int) -> list[Float[Array, "*n m"]]:
    """The monomials of exactly degree 1, 2, .., `degree`.

    All turns of x are made at once, by tiling and re-cutting, and products taken of whole turns. On a CPU, at width 64 and degree
    2, a gather of single entries takes about 4 times as long, forward and backward; one slice an index takes 20 s to compile.
    """
    width, leading = x.shape[-1], x.shape[:-1]
    tiled = jnp.tile(x, (1,) * len(leading) + (width + 1,))
    turns = tiled.reshape(*leading, width, width + 1)[..., :width]  # turns[.., o, a] = x[.., (a + o) mod width]

    def flat(products: Array, i: int) -> Array:
        return products.reshape(*leading, -1)[..., : comb(width + i - 1, i)]

    parts = [x]
    if degree >= 2:
        parts.append(flat(x[..., None, :] * turns[..., : width // 2 + 1, :], 2))
    if degree == 3:
        _, second, third = rotations(width, 3).T
        parts.append(flat(x[..., None, :] * turns[..., second, :] * turns[..., third, :], 3))
    return parts


def polynomial_kernel(scores: Float[Array, "*n"], scales: Float[Array, " i"]) -> Float[Array, "*n"]:
    """sum_i s_i**2 scores**i, elementwise: the kernel of two tokens from their score q . k.

    Args:
      scores: inner products of queries and keys.
      scales: as of `polynomial_features`.

    Returns:
      Kernel values in the dtype of scores.

    Raises:
      ValueError: p outside 1 to 3.
    """
    degree = scales.shape[0] - 1
    check_degree(degree)
    coefficients = jnp.square(scales).astype(scores.dtype)
    value = jnp.full_like(scores, coefficients[degree])
    for i in reversed(range(degree)):
        value = value * scores + coefficients[i]
    return value


def expand(x: Float[Array, "*n k"], scales: Float[Array, " i"] | None) -> Float[Array, "*n f"]:
    """What a memory's first layer reads: `polynomial_features` of a key or query, or without scales the vector itself."""
    return x if scales is None else polynomial_features(x, scales)


def scores(
    q: Float[Array, "t k"], k: Float[Array, "s k"], scales: Float[Array, " i"] | None, dtype: Dtype = None
) -> Float[Array, "t s"]:
    """expand(q) expand(k)^T, by the kernel: the features themselves are not made. Factors are rounded to `dtype`."""
    products = matmul_nt(q, k, dtype)
    return products if scales is None else polynomial_kernel(products, scales)
