"""The report on a phase's exit gates: every gate run for real, a line each, JSON and a page; any of them can fail."""
