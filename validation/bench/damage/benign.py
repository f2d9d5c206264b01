"""Changes to texts that should do little harm or none: other words, another format, the same content.

The rules are made for English; a text that none of them fits stays as it is. What becomes of a row depends on the seed,
its number and its text, not on the share.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence

import numpy as np

from validation.bench.damage.choice import checked_share
from validation.bench.damage.synonyms import EXPANSIONS, swaps
from validation.bench.damage.text import Damaged

Rewrite = Callable[[str, np.random.Generator], str]

SWAPS = swaps()
# Longer expressions first, or "very large" would never be seen.
LONGEST_FIRST = sorted(SWAPS, key=lambda expression: (-len(expression), expression))
EXPRESSIONS = "|".join(re.escape(expression).replace("'", "['’]") for expression in LONGEST_FIRST)
SWAPPED = re.compile(rf"(?<![\w'’-])(?:{EXPRESSIONS})(?![\w'’-])", re.IGNORECASE)
FULL_FORMS = frozenset(EXPANSIONS.values())
# "It's been" is no "it is", "don't you" no "do not you"; "yes, it is." has no short form.
NOT_EXPANDED = re.compile(r"\s+(?:been|got|had|i|you|he|she|it|we|they|the|this|that|there)\b", re.IGNORECASE)
WORD_FOLLOWS = re.compile(r" +[^\W\d_]")
# Plural nouns between a preposition and the end of the clause: their order carries nothing.
PAIR = re.compile(r"\b((?:about|between|both|by|from|in|of|with) )([a-z]{3,}s) and (?!\2\b)([a-z]{3,}s)(?=[.,;:!?)])")
SENTENCE_START = re.compile(r"(?:^|[.!?]['\"’”)]*\s+|\n)[\s>*#_\"'“‘(-]*$")
BEFORE = 12  # Characters read back for the start of a sentence.

WIDTHS = (40, 60, 72, 88, 100)
MIN_FILLED = 36  # Shorter lines than this, but for the last, are verse or a program.
# Lists, headings, quotes, tables, indented text and programs keep their lines.
UNFILLED = re.compile(r"^(?:\s|[-*•>#|+]|\d{1,3}[.)] |```)|[\t{}=\\]", re.MULTILINE)
BULLET = re.compile(r"^([ \t]*)[-*•] (?=\S)", re.MULTILINE)
NUMBERED = re.compile(r"^([ \t]*)\d{1,3}[.)] (?=\S)", re.MULTILINE)
# With blank lines around it: a comment in a program is no heading.
HEADING = re.compile(r"(?<![^\n]\n)^#{1,6} +(?=\S[^\n]*(?:\n[ \t]*\n|\Z))", re.MULTILINE)
STRONG = re.compile(r"(?<![\w*])\*\*(?=[^\s*])([^*\n]+)(?<=\S)\*\*(?![\w*])")
LONG_WORD = re.compile(r"(?<![\w*_`/.@#&-])[^\W\d_]{4,}(?![\w*_`/@-])")
SENTENCE_GAP = re.compile(r"(?<=[a-z0-9)][.!?]) +(?=[A-Z\"“])")

# " @" stands around the points and commas of numbers in tokenised corpora.
WHOLE_NUMBER = re.compile(
    r"(?<![\w.,:/$€£#@=+−–—'’{-])(?<!@ )(?!^\d+[.)]\s)(?:0|[1-9]\d{0,3})(?![\w:/$€£%°=+−–—'’}-]|[.,]\d| @|,\})",
    re.MULTILINE,
)
UNITS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def paraphrase(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Says the same in other words: short forms, about 70 synonyms and spellings, the order of two plural nouns.

    Each place that fits is changed with probability 1/2, at least one in a chosen row; the order of the words stays
    but for the pairs, and names keep theirs: a capital within a sentence is left alone.

    Args:
      rows: clean rows.
      share: of all rows, 0 to 1, as far as there are rows that a rule fits.
      seed: of the choice and the places.

    Returns:
      Rows in order, and which changed.

    Raises:
      ValueError: the share is out of range.
    """
    return _rewritten(rows, share, seed, _other_words)


def reformat(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Writes the same words in another format, one style a row, drawn from those that change it.

    The styles: lines wrapped at another width, bullets and numbers of a list, straight and curly quotes, Markdown
    emphasis, heading marks, one space or two after a full stop; each goes either way.

    Args:
      rows: clean rows.
      share: of all rows, 0 to 1, as far as there are rows that a style fits.
      seed: of the choice and the styles.

    Returns:
      Rows in order, and which changed; wrapped ones hold line ends.

    Raises:
      ValueError: the share is out of range.
    """
    return _rewritten(rows, share, seed, _other_format)


def spell_numbers(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Writes whole numbers of up to 4 digits as English words ("42" as "forty-two").

    Parts of decimals, dates, times, ranges, codes, amounts of money and list numbers stay digits.

    Args:
      rows: clean rows.
      share: of all rows, 0 to 1, as far as there are rows with such a number.
      seed: of the choice.

    Returns:
      Rows in order, and which changed.

    Raises:
      ValueError: the share is out of range.
    """

    def spelled(row: str, _: np.random.Generator) -> str:
        return WHOLE_NUMBER.sub(lambda found: _cased(number_words(int(found[0])), _starts_line(found)), row)

    return _rewritten(rows, share, seed, spelled)


def lower_case(rows: Sequence[str], share: float, seed: int) -> Damaged:
    """Lower-cases rows: a mild change of format, not quite a benign one, for names and sentences lose their mark.

    Args:
      rows: clean rows.
      share: of all rows, 0 to 1, as far as there are rows with capitals.
      seed: of the choice.

    Returns:
      Rows in order, and which changed.

    Raises:
      ValueError: the share is out of range.
    """
    return _rewritten(rows, share, seed, lambda row, _: row.lower())


def number_words(number: int) -> str:
    """A whole number of 0 to 9999 in English words."""
    if number >= 1000:
        rest = f" {number_words(number % 1000)}" if number % 1000 else ""
        return f"{UNITS[number // 1000]} thousand{rest}"
    if number >= 100:
        rest = f" {number_words(number % 100)}" if number % 100 else ""
        return f"{UNITS[number // 100]} hundred{rest}"
    if number >= 20:
        return TENS[number // 10 - 2] + (f"-{UNITS[number % 10]}" if number % 10 else "")
    return UNITS[number]


def _rewritten(rows: Sequence[str], share: float, seed: int, rewrite: Rewrite) -> Damaged:
    """Rewrites rows in a random order until enough of them have changed."""
    wanted = round(checked_share(share) * len(rows))
    changed = np.zeros(len(rows), bool)
    written = list(rows)
    for row in map(int, np.random.default_rng(seed).permutation(len(rows))):
        if not wanted:
            break
        written[row] = rewrite(rows[row], np.random.default_rng([seed, row]))
        changed[row] = written[row] != rows[row]
        wanted -= int(changed[row])
    return written, changed


def _other_words(row: str, rng: np.random.Generator) -> str:
    places: list[tuple[int, int, str]] = [
        (found.start(), found.end(), new) for found in SWAPPED.finditer(row) if (new := _swapped(found))
    ]
    places += [(*found.span(), f"{found[1]}{found[3]} and {found[2]}") for found in PAIR.finditer(row)]
    if not places:
        return row
    taken = rng.random(len(places)) < 0.5
    taken[rng.integers(len(places))] = True
    pieces: list[str] = []
    done = 0
    for start, end, new in sorted(place for place, take in zip(places, taken, strict=True) if take):
        # Words of a pair may have synonyms as well: what comes first is changed.
        if start >= done:
            pieces += [row[done:start], new]
            done = end
    return "".join([*pieces, row[done:]])


def _swapped(found: re.Match[str]) -> str | None:
    """What stands there instead, None where the rule does not fit its place."""
    old = found[0].replace("’", "'").lower()
    if "'" in old and NOT_EXPANDED.match(found.string, found.end()):
        return None
    if old in FULL_FORMS and not WORD_FOLLOWS.match(found.string, found.end()):
        return None
    new = SWAPS[old].replace("'", "’" if "’" in found.string else "'")
    if old.startswith(("i'", "i ")):
        return "I" + new[1:] if found[0][0] == "I" and found[0][1:].islower() else None
    capital = found[0][0].isupper()
    if not found[0][int(capital) :].islower() or (capital and not _starts_sentence(found)):
        return None
    return _cased(new, capital)


def _starts_sentence(found: re.Match[str]) -> bool:
    return SENTENCE_START.search(found.string[max(0, found.start() - BEFORE) : found.start()]) is not None


def _starts_line(found: re.Match[str]) -> bool:
    return found.start() == 0 or found.string[found.start() - 1] == "\n"


def _cased(new: str, capital: bool) -> str:
    return new[0].upper() + new[1:] if capital else new


def _other_format(row: str, rng: np.random.Generator) -> str:
    formats = [style(row, rng) for style in (_wrapped, _relisted, _requoted, _emphasised, _headed, _respaced)]
    changed = [new for new in formats if new != row]
    return changed[rng.integers(len(changed))] if changed else row


def _wrapped(row: str, rng: np.random.Generator) -> str:
    """Paragraphs of prose at another width."""
    width = WIDTHS[rng.integers(len(WIDTHS))]

    def filled(paragraph: str) -> str:
        lines = paragraph.split("\n")
        if UNFILLED.search(paragraph) or min(map(len, lines[:-1]), default=width) < MIN_FILLED:
            return paragraph
        wrapped = textwrap.fill(paragraph, width, break_long_words=False, break_on_hyphens=False)
        return wrapped if "\n" in paragraph + wrapped else paragraph

    return "\n\n".join(filled(paragraph) for paragraph in row.split("\n\n"))


def _relisted(row: str, _: np.random.Generator) -> str:
    """Bullets as numbers, or numbers as bullets; a single line is no list."""
    if len(BULLET.findall(row)) > 1:
        numbers = iter(range(1, row.count("\n") + 2))
        return BULLET.sub(lambda found: f"{found[1]}{next(numbers)}. ", row)
    return NUMBERED.sub(r"\1- ", row) if len(NUMBERED.findall(row)) > 1 else row


def _requoted(row: str, _: np.random.Generator) -> str:
    if re.search("[“”‘’]", row):
        return re.sub("[‘’]", "'", re.sub("[“”]", '"', row))
    opened = re.sub(r"(^|[\s(\[—–-])\"(?=\S)", r"\1“", row)
    opened = re.sub(r"(^|[\s(\[—–“-])'(?=\w)", r"\1‘", opened)
    return opened.replace('"', "”").replace("'", "’")


def _emphasised(row: str, rng: np.random.Generator) -> str:
    """Strong emphasis taken away, or given to one word."""
    if STRONG.search(row):
        return STRONG.sub(r"\1", row)
    words = list(LONG_WORD.finditer(row))
    if not words:
        return row
    word = words[rng.integers(len(words))]
    return f"{row[: word.start()]}**{word[0]}**{row[word.end() :]}"


def _headed(row: str, _: np.random.Generator) -> str:
    """Heading marks taken away, or given to a short first line above a blank one."""
    if HEADING.search(row):
        return HEADING.sub("", row)
    return re.sub(r"\A(?=\w[^\n]{0,60}\n\n)", "## ", row)


def _respaced(row: str, _: np.random.Generator) -> str:
    """Two spaces after a sentence, or one where there are two."""
    gap = " " if "  " in SENTENCE_GAP.findall(row) else "  "
    return SENTENCE_GAP.sub(gap, row)
