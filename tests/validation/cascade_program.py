"""The command line on the small profile of the tests, saving after every segment; its own process, to be killed."""

from __future__ import annotations

import sys

from small_world import TINY

from validation import cascade, tiers
from validation.profiles import PROFILES

if __name__ == "__main__":
    PROFILES["quick"] = TINY
    tiers.SAVE_EVERY_SECONDS = 0.0
    sys.exit(cascade.main())
