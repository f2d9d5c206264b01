"""Newton-Schulz orthogonalisation: all singular values of a matrix near 1 by matrix products alone, without an SVD.

Each step maps every singular value s of X to a s + b s**3 + c s**5 and leaves the singular vectors as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

Coefficients = Sequence[tuple[float, float, float]]  # (a, b, c) of every step

# Where singular values end, by their size s relative to the Frobenius norm; none ends above 1.21, whatever the matrix:
#   s >= 0.0053   0.68 to 1.135, random matrices of condition number up to 12 among them
#   s >= 0.0016   0.68 to 1.21; smaller ones, down to 0, are still on the way up, 485 times as large as they were
# Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
CLASSIC: Coefficients = ((3.4445, -4.7750, 2.0315),) * 5

# Every step has its own polynomial, so the order matters; none ends above 1.146:
#   s >= 0.01     0.977 to 1.033, the random matrices above among them
#   s >= 0.0023   0.92 to 1.146; smaller ones are still on the way up, 493 times as large as they were
# Source: coefficients tuned by Jiacheng You, in use in public Muon and Dion implementations.
TUNED: Coefficients = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonalise(
    x: Float[Array, "*n m k"],
    coefficients: Coefficients = CLASSIC,
    *,
    eps: float = 1e-7,
    product_dtype: DTypeLike | None = None,
) -> Float[Array, "*n m k"]:
    """U p(S) V^T for x = U S V^T, with p(S) near 1: the direction of a matrix without its scale.

    x is divided by its Frobenius norm first, so a factor on x changes nothing as long as the norm is far above eps. A zero
    matrix stays zero, and its gradient is 0; elsewhere the gradient grows as 1 / norm.

    Args:
      x: matrices of any orientation; a tall one is transposed for the products, which cost least with the short side first.
      coefficients: (a, b, c) of every step, `CLASSIC` or `TUNED`; fewer rows make fewer steps.
      eps: added to the Frobenius norm.
      product_dtype: inputs of the matrix products, bfloat16 for speed; sums stay in float32 (float64 for x of float64).
        None is the dtype of the sums; a GPU's float32 products follow `jax.default_matmul_precision`.

    Returns:
      The matrices in the shape and dtype of x.

    Raises:
      ValueError: no steps.

    Source: Jordan et al. 2024 (Muon); ATLAS (arXiv:2505.23735) applies it to the momentum of a memory.
    """
    if len(coefficients) == 0:
        raise ValueError("coefficients has 0 rows, expected at least 1 step (a, b, c)")
    dtype = jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    tall = x.shape[-2] > x.shape[-1]
    y = _normalised((jnp.swapaxes(x, -1, -2) if tall else x).astype(dtype), eps)
    for step in coefficients:
        y = _step(y, step, dtype if product_dtype is None else product_dtype)
    return (jnp.swapaxes(y, -1, -2) if tall else y).astype(x.dtype)


def _normalised(x: Float[Array, "*n m k"], eps: float) -> Float[Array, "*n m k"]:
    """x over its Frobenius norm; the inner where keeps the root's infinite slope at 0 out of the gradient."""
    square = jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True)
    positive = square > 0
    norm = jnp.sqrt(jnp.where(positive, square, jnp.ones_like(square)))
    return x * jnp.where(positive, 1 / (norm + eps), jnp.zeros_like(square))


def _step(x: Float[Array, "*n m k"], step: tuple[float, float, float], dtype: DTypeLike) -> Float[Array, "*n m k"]:
    """a X + (b A + c A A) X with A = X X^T."""
    a, b, c = step

    def product(left: Array, right: Array) -> Array:
        return jnp.matmul(left.astype(dtype), right.astype(dtype), preferred_element_type=x.dtype)

    gram = product(x, jnp.swapaxes(x, -1, -2))
    return a * x + product(b * gram + c * product(gram, gram), x)
