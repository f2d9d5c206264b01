"""How big a run is: the sizes of the three tiers and what each model sees."""

from __future__ import annotations

from dataclasses import dataclass

from spectral import resonance
from spectral.resonance import ResonanceConfig

BRANCH_GRAIN = 40  # the shortest branch is an eighth of all steps and decays over a fifth of that

RATE_MULTIPLIERS = (1.0, 0.5)  # two learning rates a tier: rankings of data recipes flip with the rate


@dataclass(frozen=True)
class TierPlan:
    """One tier of equal models.

    Attributes:
      model: size of the models; vocabulary, context and chunk are set by the run.
      learning_rate: peak rate of the first group of models; the second group runs at half of it.
      models: (at the full rate, at half of it), all trained on the data.
      controls: models trained on the reference, paired with the first ones of the data by seed and rate.
      batch: windows per step of each model.
      accumulation: parts of a batch that go through one after the other; a divisor of it.
      rows: a model sees about so many rows at most; None is no limit.
      devices: so many accelerators are used at most; None is all. CPU cores are always all used.
    """

    model: ResonanceConfig
    learning_rate: float
    models: tuple[int, int]
    controls: int
    batch: int = 4
    accumulation: int = 1
    rows: int | None = None
    devices: int | None = None

    @property
    def count(self) -> int:
        """Models trained on the data."""
        return sum(self.models)

    def multipliers(self) -> list[float]:
        """Learning-rate multiplier of every data model, in order."""
        return [m for m, count in zip(RATE_MULTIPLIERS, self.models, strict=True) for _ in range(count)]


@dataclass(frozen=True)
class Profile:
    """A size of run.

    Attributes:
      name: as given on the command line.
      tiers: small to large; 18 models in all.
      steps: optimizer steps of a model on a large enough dataset, a multiple of `step_grain`.
      segment: steps per call of the compiled program: the grain of progress and of resuming.
      length: predicted tokens per window.
      vocab_size: of the byte-pair encoding trained on the reference, or on the data without one.
      held_out_windows: windows of held-out text that every decayed checkpoint is measured on.
      score_tokens: at most this many tokens of the data are scored row by row.
      text_bytes: text kept for training and row checks; of larger data a sample by content hash.
      memory: share of an accelerator's memory that is taken at the start; None is what JAX takes by itself.
    """

    name: str
    tiers: tuple[TierPlan, TierPlan, TierPlan]
    steps: int
    segment: int
    length: int
    vocab_size: int
    held_out_windows: int
    score_tokens: int
    text_bytes: int
    memory: float | None = None

    @property
    def step_grain(self) -> int:
        """Steps are a multiple of this, so that every branch of a tier starts and ends on a whole segment."""
        return BRANCH_GRAIN * self.segment

    def tokens(self, plan: TierPlan, steps: int) -> int:
        """Tokens that a model of the tier sees in that many steps."""
        return steps * plan.batch * self.length


def _sized(d_model: int, layers: int, heads: int) -> ResonanceConfig:
    return ResonanceConfig(d_model=d_model, layers=layers, heads=heads)


_LAPTOP_TIERS = (
    TierPlan(_sized(32, 2, 4), learning_rate=0.03, models=(5, 5), controls=5),
    TierPlan(_sized(128, 2, 8), learning_rate=0.01, models=(3, 2), controls=3),
    TierPlan(_sized(208, 2, 8), learning_rate=0.008, models=(2, 1), controls=0),
)

PROFILES: dict[str, Profile] = {
    # The embedded demonstration and the tests: the laptop's models on less text.
    "quick": Profile(
        name="quick",
        tiers=_LAPTOP_TIERS,
        steps=240,
        segment=2,
        length=128,
        vocab_size=1024,
        held_out_windows=192,
        score_tokens=1_000_000,
        text_bytes=8 << 20,
    ),
    # About three minutes on two cores.
    "laptop": Profile(
        name="laptop",
        tiers=_LAPTOP_TIERS,
        steps=640,
        segment=2,
        length=128,
        vocab_size=1024,
        held_out_windows=192,
        score_tokens=3_000_000,
        text_bytes=32 << 20,
    ),
    # A many-core machine or one accelerator.
    "workstation": Profile(
        name="workstation",
        tiers=(
            TierPlan(_sized(128, 2, 8), learning_rate=0.01, models=(5, 5), controls=5, batch=32),
            TierPlan(_sized(256, 4, 8), learning_rate=0.006, models=(3, 2), controls=3, batch=32),
            TierPlan(_sized(512, 6, 16), learning_rate=0.003, models=(2, 1), controls=0, batch=32),
        ),
        steps=2400,
        segment=8,
        length=256,
        vocab_size=4096,
        held_out_windows=512,
        score_tokens=20_000_000,
        text_bytes=256 << 20,
    ),
    # Four H200. Ten models on two of them, five each in turn; five on three, in two rounds with one idle copy; three in turn on
    # all four, every batch split in four. Compiled, never run: learning rates are not tuned and nothing is timed.
    "h200x4": Profile(
        name="h200x4",
        tiers=(
            TierPlan(
                resonance.PRESETS["tiny"],
                learning_rate=0.002,
                models=(5, 5),
                controls=5,
                batch=256,
                accumulation=2,
                rows=2_000_000,
                devices=2,
            ),
            TierPlan(
                resonance.PRESETS["small"],
                learning_rate=0.001,
                models=(3, 2),
                controls=3,
                batch=128,
                accumulation=2,
                rows=10_000_000,
                devices=3,
            ),
            TierPlan(
                resonance.PRESETS["base"],
                learning_rate=0.0007,
                models=(2, 1),
                controls=0,
                batch=64,
                accumulation=2,
                rows=20_000_000,
                devices=4,
            ),
        ),
        steps=64_000,
        segment=4,
        length=2048,
        vocab_size=50_257,
        held_out_windows=2048,
        score_tokens=500_000_000,
        text_bytes=64 << 30,
        memory=0.9,
    ),
}
