"""Scaling: loss by model size and data, what the next tier will reach, and what doubling the data gains.

Source: the parametric law of Hoffmann et al. 2022 (arXiv:2203.15556), loss = E + A N**-alpha + B D**-beta, fitted as they do
by a Huber loss on log loss; deviation: two sizes cannot determine alpha, so both exponents are drawn towards a prior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

# Exponents of Hoffmann et al. 2022, approach 3; the width says how far small models may lie from them.
PRIOR_ALPHA, PRIOR_BETA, PRIOR_WIDTH = 0.34, 0.28, 0.15
HUBER_DELTA = 1e-3  # in log loss, as in the source
NOISE = 5e-3  # log loss; the weight of a point against the prior
BOOTSTRAPS = 50


@dataclass(frozen=True)
class Law:
    """loss(N, D) = irreducible + a N**-alpha + b D**-beta, bits per token; N parameters, D tokens."""

    irreducible: float
    a: float
    alpha: float
    b: float
    beta: float
    residual: float

    def loss(self, parameters: int | float | np.ndarray, tokens: int | float | np.ndarray) -> Float[np.ndarray, ...]:
        """Loss that the law gives, bits per token."""
        n, d = np.asarray(parameters, float), np.asarray(tokens, float)
        return np.asarray(self.irreducible + self.a * n**-self.alpha + self.b * d**-self.beta)


def fit(parameters: Float[np.ndarray, " p"], tokens: Float[np.ndarray, " p"], loss: Float[np.ndarray, " p"]) -> Law:
    """Fits the law to points of (parameters, tokens, loss in bits per token).

    Args:
      parameters, tokens: sizes and amounts of data; at least two different amounts.
      loss: measured at them, positive.
    """
    # Scaled to the geometric mean, so that the five unknowns have similar sizes.
    n, d = parameters / np.exp(np.log(parameters).mean()), tokens / np.exp(np.log(tokens).mean())

    def unpack(theta: np.ndarray) -> tuple[np.ndarray, float, float]:
        return np.exp(theta[:3]), theta[3], theta[4]

    def residuals(theta: np.ndarray) -> np.ndarray:
        (e, a, b), alpha, beta = unpack(theta)
        misfit = (np.log(e + a * n**-alpha + b * d**-beta) - np.log(loss)) / NOISE
        return np.concatenate([misfit, np.array([alpha - PRIOR_ALPHA, beta - PRIOR_BETA]) / PRIOR_WIDTH])

    start = np.array([*np.log(loss.min() * np.array([0.5, 0.2, 0.3])), PRIOR_ALPHA, PRIOR_BETA])
    found = least_squares(residuals, start, loss="huber", f_scale=max(1.0, HUBER_DELTA / NOISE), max_nfev=500)
    (e, a, b), alpha, beta = unpack(found.x)
    n0, d0 = np.exp(np.log(parameters).mean()), np.exp(np.log(tokens).mean())
    law = Law(float(e), float(a * n0**alpha), float(alpha), float(b * d0**beta), float(beta), 0.0)
    residual = float(np.sqrt(np.mean(np.log(law.loss(parameters, tokens) / loss) ** 2)))
    return Law(law.irreducible, law.a, law.alpha, law.b, law.beta, residual)


@dataclass(frozen=True)
class TierLosses:
    """Losses of one tier's runs: parameters of a model, tokens at the checkpoints, loss [runs, checkpoints]."""

    parameters: int
    tokens: Float[np.ndarray, " c"]
    loss: Float[np.ndarray, "r c"]


def fit_tiers(tiers: list[TierLosses]) -> Law:
    """The law through the mean over runs at every checkpoint of every tier."""
    parameters = np.concatenate([np.full(len(t.tokens), t.parameters, float) for t in tiers])
    return fit(
        parameters, np.concatenate([t.tokens for t in tiers]), np.concatenate([t.loss.mean(axis=0) for t in tiers])
    )


def predict(
    tiers: list[TierLosses], parameters: int, tokens: Float[np.ndarray, " c"], seed: int
) -> tuple[Law, float, tuple[float, float]]:
    """The law from smaller tiers, and what it says of a larger one's final loss.

    Returns:
      The law; the predicted loss at the last of `tokens`; its 95 % interval from a bootstrap over whole runs, widened by
      the law's own residual. It holds no allowance for the law being wrong beyond the sizes it saw.
    """
    law = fit_tiers(tiers)
    rng = np.random.default_rng([seed, 2])
    draws = []
    for _ in range(BOOTSTRAPS):
        resampled = [
            TierLosses(t.parameters, t.tokens, t.loss[rng.integers(0, len(t.loss), len(t.loss))]) for t in tiers
        ]
        draws.append(float(fit_tiers(resampled).loss(parameters, tokens[-1])))
    centre = float(law.loss(parameters, tokens[-1]))
    spread = float(np.hypot(np.std(draws), law.residual * centre))
    return law, centre, (centre - 1.96 * spread, centre + 1.96 * spread)


def gain_per_doubling(loss: Float[np.ndarray, "r c"]) -> tuple[float, tuple[float, float]]:
    """What the last doubling of the data gained, bits per token: checkpoints 3 and 4 see half and all of it.

    Returns:
      Mean over runs and its 95 % interval over runs (normal; the interval is the mean itself with a single run).
    """
    gains = loss[:, -2] - loss[:, -1]
    half = 1.96 * float(gains.std(ddof=1)) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return float(gains.mean()), (float(gains.mean()) - half, float(gains.mean()) + half)
