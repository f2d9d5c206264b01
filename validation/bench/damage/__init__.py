"""Clean rows made bad in known ways, with the truth about every row.

Texts are strings, a table's rows tuples of cells, series windows of whole numbers. Each function takes rows and a seed
and gives rows back, with a mask of the changed ones; the same seed gives the same rows, and the rows changed at a smaller
share are among those changed at a larger one. The functions that drop rows give back fewer, none of them bad.
"""

from validation.bench.damage.benign import lower_case, paraphrase, reformat, spell_numbers
from validation.bench.damage.series import drop_levels, noise, shuffle_time, sines, smooth, stuck
from validation.bench.damage.tables import break_correlation, copula, drop_modes, label_noise, random_cells
from validation.bench.damage.text import (
    TEMPLATES,
    duplicates,
    random_words,
    rare_rows_dropped,
    rare_words_replaced,
    shuffle_words,
    tail_cut,
    templates,
)

__all__ = [
    "TEMPLATES",
    "break_correlation",
    "copula",
    "drop_levels",
    "drop_modes",
    "duplicates",
    "label_noise",
    "lower_case",
    "noise",
    "paraphrase",
    "random_cells",
    "random_words",
    "rare_rows_dropped",
    "rare_words_replaced",
    "reformat",
    "shuffle_time",
    "shuffle_words",
    "sines",
    "smooth",
    "spell_numbers",
    "stuck",
    "tail_cut",
    "templates",
]
