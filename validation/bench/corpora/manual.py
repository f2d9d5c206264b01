"""Manual pages as plain text: enough of troff to read them, not to print them."""

from __future__ import annotations

import re

BREAKS = frozenset(("PP", "P", "LP", "TP", "IP", "HP", "Pp", "It", "sp", "RS", "RE", "TQ"))
WORDS = frozenset(
    ("B", "I", "R", "BI", "BR", "IB", "IR", "RB", "RI", "SM", "SB", "Nm", "Nd", "Fl", "Ar", "Op", "Xr", "Pa")
)
WORDS |= frozenset(
    ("Cm", "Em", "Sy", "Dv", "Ev", "Li", "Ic", "Va", "Fn", "Dq", "Sq", "Ql", "Pq", "SH", "SS", "Sh", "Ss")
)
SPACED = frozenset(("B", "I", "SM", "SB", "SH", "SS"))
REQUEST = re.compile(r"[.'][ \t]*(\S*)[ \t]*(.*)")
ARGUMENT = re.compile(r'"((?:[^"]|"")*)"|(\S+)')
FONT = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[-+]?\d|\\[&|^%/,c)]|\\[hvw]'[^']*'")
SPECIAL = re.compile(r"\\\((..)|\\\[([^\]]+)\]|\\\*(?:\((..)|\[([^\]]+)\]|(.))")
SIGNS = {"aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "bu": "•", "em": "—", "en": "–", "co": "©"}
SIGNS |= {
    "Aq": "'",
    "L": "“",
    "R": "”",
    "ha": "^",
    "ti": "~",
    "rs": "\\",
    "ga": "`",
    "mi": "−",
    "hy": "-",
    "C`": '"',
    "C'": '"',
}


def plain_text(page: str) -> str:
    """The words of a manual page, a paragraph after another.

    Titles and words in other fonts are as the rest; comments, conditions, definitions and tables' layouts are left out.

    Args:
      page: source in the macros man or mdoc.
    """
    lines: list[str] = []
    hidden = ""  # the request that ends what is not to be read
    for line in page.splitlines():
        request = REQUEST.match(line)
        if hidden:
            hidden = "" if request and request[1] == hidden else hidden
        elif request is None:
            lines.append(_signs(line))
        elif request[1] in ("de", "ig", "de1", "am"):
            hidden = "."
        elif request[1] in BREAKS:
            lines.append("")
        elif request[1] in WORDS:
            lines += _words(request[1], request[2])
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _words(name: str, rest: str) -> list[str]:
    arguments = [(quoted or bare).replace('""', '"') for quoted, bare in ARGUMENT.findall(rest)]
    text = _signs((" " if name in SPACED or not name.isupper() else "").join(arguments))
    return ["", text] if name in ("SH", "SS", "Sh", "Ss") else [text]


def _signs(line: str) -> str:
    line = re.sub(r'\\".*', "", line)
    line = FONT.sub("", line)
    line = SPECIAL.sub(lambda found: SIGNS.get(next(name for name in found.groups() if name), ""), line)
    return (
        line.replace("\\-", "-")
        .replace("\\ ", " ")
        .replace("\\~", " ")
        .replace("\\e", "\\")
        .replace("\\'", "'")
        .replace("\\.", ".")
    )
