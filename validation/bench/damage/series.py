"""Windows of series made bad in known ways: whole numbers of 0 to 99, a window a row.

What becomes of a window depends on the seed and on the windows, not on the share: a larger share changes further windows.
Windows that a damage would leave as they are (a constant one has no order to lose) are never chosen.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from validation.bench.damage.choice import checked_share, chosen_rows

DamagedWindows = tuple[Int[np.ndarray, "n w"], Bool[np.ndarray, " n"]]

HIGHEST = 99
SMOOTHED_STEPS = 9
WAVE_CYCLES = (1, 2, 3, 4, 6, 8)


def shuffle_time(windows: Int[np.ndarray, "n w"], share: float, seed: int) -> DamagedWindows:
    """Permutes the steps within windows: every value stays, what leads to what is lost.

    Args:
      windows: clean ones, 0 to 99.
      share: of the windows, 0 to 1, as far as there are some that are not constant.
      seed: of the choice and the permutations.

    Returns:
      Windows in order, and which changed.

    Raises:
      ValueError: the share or a value is out of range, or there is no window.
    """
    _check(windows)
    rng = np.random.default_rng(seed)
    shuffled = windows.copy()
    same = np.flatnonzero(np.ptp(windows, axis=1))
    while len(same):
        shuffled[same] = rng.permuted(windows[same], axis=1)
        same = same[(shuffled[same] == windows[same]).all(1)]
    return _replaced(windows, shuffled, share, rng)


def stuck(windows: Int[np.ndarray, "n w"], share: float, seed: int) -> DamagedWindows:
    """Windows hold one value from a step in their first quarter on, as a sensor that has failed does.

    Args:
      windows: clean ones, 0 to 99.
      share: of the windows, 0 to 1, as far as there are some that this changes.
      seed: of the choice and the steps.

    Returns:
      Windows in order, and which changed.

    Raises:
      ValueError: the share or a value is out of range, or there is no window.
    """
    _check(windows)
    rng = np.random.default_rng(seed)
    count, width = windows.shape
    first = rng.integers(-(-width // 4), size=count)[:, None]
    held = np.take_along_axis(windows, np.minimum(np.arange(width)[None], first), axis=1)
    return _replaced(windows, held, share, rng)


def noise(windows: Int[np.ndarray, "n w"], share: float, seed: int) -> DamagedWindows:
    """Adds white noise as strong as the series themselves: the standard deviation of all values.

    Args:
      windows: clean ones, 0 to 99.
      share: of the windows, 0 to 1.
      seed: of the choice and the noise.

    Returns:
      Windows in order, rounded and clipped to 0 to 99, and which changed.

    Raises:
      ValueError: the share or a value is out of range, or there is no window.
    """
    _check(windows)
    rng = np.random.default_rng(seed)
    return _replaced(windows, windows + rng.normal(0, windows.std(), windows.shape), share, rng)


def smooth(windows: Int[np.ndarray, "n w"], share: float, seed: int) -> DamagedWindows:
    """Replaces windows by their moving average over 9 steps, as series of a model that regresses to the mean look.

    Args:
      windows: clean ones, 0 to 99.
      share: of the windows, 0 to 1, as far as there are some that this changes.
      seed: of the choice.

    Returns:
      Windows in order, rounded, and which changed; near its ends a window is averaged over the steps that it has.

    Raises:
      ValueError: the share or a value is out of range, or there is no window.
    """
    _check(windows)
    steps = np.arange(windows.shape[1])
    near = np.abs(steps[:, None] - steps[None]) <= SMOOTHED_STEPS // 2
    return _replaced(windows, windows @ (near / near.sum(0)[None]), share, np.random.default_rng(seed))


def sines(windows: Int[np.ndarray, "n w"], share: float, seed: int) -> DamagedWindows:
    """Replaces windows by sines of 1, 2, 3, 4, 6 or 8 cycles a window, six templates in all.

    Level and amplitude are drawn, each for itself, from the means and deviations of the windows, so that the values
    remain those of the series and only their course is made up.

    Args:
      windows: clean ones, 0 to 99.
      share: of the windows, 0 to 1.
      seed: of the choice, the templates, levels and amplitudes.

    Returns:
      Windows in order, rounded and clipped to 0 to 99, and which changed.

    Raises:
      ValueError: the share or a value is out of range, or there is no window.
    """
    _check(windows)
    rng = np.random.default_rng(seed)
    count, width = windows.shape
    phase = 2 * np.pi * (np.arange(width) + 0.5) / width
    waves = np.sin(np.outer(WAVE_CYCLES, phase))[rng.integers(len(WAVE_CYCLES), size=count)]
    level = rng.choice(windows.mean(1), count)[:, None]
    amplitude = np.sqrt(2) * rng.choice(windows.std(1), count)[:, None]
    return _replaced(windows, level + amplitude * waves, share, rng)


def drop_levels(
    windows: Int[np.ndarray, "n w"], share: float, seed: int
) -> tuple[Int[np.ndarray, "left w"], Bool[np.ndarray, " left"]]:
    """Removes the windows of the highest mean: what remains is real, and a part of the world is missing.

    Args:
      windows: clean ones, 0 to 99.
      share: of the windows to remove, 0 to 1.
      seed: of the choice between windows of the same mean.

    Returns:
      The windows that remain, in order, and a mask of no bad one.

    Raises:
      ValueError: the share or a value is out of range, or there is no window.
    """
    _check(windows)
    ties = np.random.default_rng(seed).random(len(windows))
    falling = np.lexsort([ties, -windows.sum(1, dtype=np.int64)])
    left = windows[np.sort(falling[round(checked_share(share) * len(windows)) :])]
    return left, np.zeros(len(left), bool)


def _check(windows: Int[np.ndarray, "n w"]) -> None:
    if not windows.size:
        raise ValueError(f"windows: shape {windows.shape}; expected at least one window of at least one step")
    if windows.min() < 0 or windows.max() > HIGHEST:
        raise ValueError(f"windows: values {windows.min()} to {windows.max()}; expected 0 to {HIGHEST}")


def _replaced(windows: np.ndarray, damaged: np.ndarray, share: float, rng: np.random.Generator) -> DamagedWindows:
    """The chosen windows from the damaged ones, rounded to whole numbers, the others as they were."""
    damaged = np.rint(damaged).clip(0, HIGHEST).astype(windows.dtype)
    chosen = chosen_rows(np.flatnonzero((damaged != windows).any(1)), len(windows), share, rng)
    changed = np.zeros(len(windows), bool)
    changed[chosen] = True
    return np.where(changed[:, None], damaged, windows), changed
