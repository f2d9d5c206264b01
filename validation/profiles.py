"""How big a run is: the sizes of the three tiers and what each model sees."""

from __future__ import annotations

from dataclasses import dataclass

BRANCH_GRAIN = 40  # the shortest branch is an eighth of all steps and decays over a fifth of that

RATE_MULTIPLIERS = (1.0, 0.5)  # two learning rates a tier: rankings of data recipes flip with the rate


@dataclass(frozen=True)
class TierPlan:
    """One tier of equal models.

    Attributes:
      d_model, layers, heads: size of the Resonance model.
      learning_rate: peak rate of the first group of models; the second group runs at half of it.
      models: (at the full rate, at half of it), all trained on the data.
      controls: models trained on the reference, paired with the first ones of the data by seed and rate.
    """

    d_model: int
    layers: int
    heads: int
    learning_rate: float
    models: tuple[int, int]
    controls: int

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
      batch: windows per step.
      length: predicted tokens per window.
      vocab_size: of the byte-pair encoding trained on the reference, or on the data without one.
      held_out_windows: windows of held-out text that every decayed checkpoint is measured on.
      score_tokens: at most this many tokens of the data are scored row by row.
      text_bytes: text kept for training and row checks; of larger data a sample by content hash.
    """

    name: str
    tiers: tuple[TierPlan, TierPlan, TierPlan]
    steps: int
    segment: int
    batch: int
    length: int
    vocab_size: int
    held_out_windows: int
    score_tokens: int
    text_bytes: int

    @property
    def step_grain(self) -> int:
        """Steps are a multiple of this, so that every branch of a tier starts and ends on a whole segment."""
        return BRANCH_GRAIN * self.segment

    def tokens(self, steps: int) -> int:
        """Tokens that a model sees in that many steps."""
        return steps * self.batch * self.length


_LAPTOP_TIERS = (
    TierPlan(d_model=32, layers=2, heads=4, learning_rate=0.03, models=(5, 5), controls=5),
    TierPlan(d_model=128, layers=2, heads=8, learning_rate=0.01, models=(3, 2), controls=3),
    TierPlan(d_model=208, layers=2, heads=8, learning_rate=0.008, models=(2, 1), controls=0),
)

PROFILES: dict[str, Profile] = {
    # The embedded demonstration and the tests: the laptop's models on less text.
    "quick": Profile(
        name="quick",
        tiers=_LAPTOP_TIERS,
        steps=240,
        segment=2,
        batch=4,
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
        batch=4,
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
            TierPlan(d_model=128, layers=2, heads=8, learning_rate=0.01, models=(5, 5), controls=5),
            TierPlan(d_model=256, layers=4, heads=8, learning_rate=0.006, models=(3, 2), controls=3),
            TierPlan(d_model=512, layers=6, heads=16, learning_rate=0.003, models=(2, 1), controls=0),
        ),
        steps=2400,
        segment=8,
        batch=32,
        length=256,
        vocab_size=4096,
        held_out_windows=512,
        score_tokens=20_000_000,
        text_bytes=256 << 20,
    ),
}
