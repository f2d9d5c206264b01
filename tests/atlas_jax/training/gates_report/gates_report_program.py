"""The command with the numbers of a report that is over in seconds."""

import sys

from atlas_jax.training.gates_report.__main__ import main
from atlas_jax.training.gates_report.rehearsal import Plan
from atlas_jax.training.gates_report.settings import Defaults

SHORT = Defaults(
    save_every=6,
    evaluate_every=6,
    evaluate_windows=4,
    timed=1,
    rehearsal=Plan(every=4, lead=4, bound=4, after=4),
    texts=1,
)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], SHORT))
