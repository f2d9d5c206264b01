"""Texts that this project writes itself from a fixed seed: arithmetic, and a server's log.

They are naturally low in entropy, and what comes late in a row follows from what came early.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from validation.bench.corpora.corpus import Corpus, text_rows
from validation.bench.corpora.stories import frequent, made_up_names, stories
from validation.bench.rows import Rows

SEED = 20_241
PROBLEMS, SESSIONS = 6000, 3000


def _arithmetic() -> Rows:
    """Problems with their working and answer; every answer is right."""
    rng = random.Random(SEED)
    kinds = (_purchase, _sharing, _chain, _sequence, _comparison)
    people = made_up_names(rng, 120, 2)
    return text_rows(rng.choice(kinds)(rng, frequent(rng, people)) for _ in range(PROBLEMS))


GOODS = ("apples", "pencils", "stamps", "marbles", "candles", "tickets", "nails", "oranges", "buttons", "shells")


def _purchase(rng: random.Random, name: str) -> str:
    goods, first, more, price = rng.choice(GOODS), rng.randint(2, 90), rng.randint(2, 60), rng.randint(2, 9)
    return (
        f"{name} has {first} {goods} and buys {more} more at {price} coins each. How many {goods} does {name} have, and "
        f"what was paid?\n{first} + {more} = {first + more}\n{more} * {price} = {more * price}\n"
        f"{name} has {first + more} {goods} and paid {more * price} coins."
    )


def _sharing(rng: random.Random, name: str) -> str:
    goods, children, each, left = rng.choice(GOODS), rng.randint(3, 12), rng.randint(2, 25), rng.randint(0, 2)
    total = children * each + left
    return (
        f"{name} shares {total} {goods} among {children} children so that all get the same. How many does each child get, "
        f"and how many are left?\n{total} = {children} * {each} + {left}\nEach child gets {each} {goods}, and {left} are left."
    )


def _chain(rng: random.Random, name: str) -> str:
    """A sum of many terms, worked out a step at a time."""
    total, lines = rng.randint(10, 99), [f"{name} keeps a running total."]
    lines.append(f"start: {total}")
    for _ in range(rng.randint(4, 9)):
        term = rng.randint(-60, 99)
        lines.append(f"{total} {'-' if term < 0 else '+'} {abs(term)} = {total + term}")
        total += term
    return "\n".join([*lines, f"{name} ends at {total}."])


def _sequence(rng: random.Random, name: str) -> str:
    first, step, grow = rng.randint(1, 40), rng.randint(2, 15), rng.choice((0, 0, 1, 2))
    terms = [first + step * n + grow * n * (n - 1) // 2 for n in range(9)]
    shown = ", ".join(map(str, terms[:6]))
    rule = f"{step} is added each time" if grow == 0 else f"first {step} is added, and {grow} more each time"
    return f"{name} writes {shown}. What are the next three? The rule: {rule}. So they are {terms[6]}, {terms[7]} and {terms[8]}."


def _comparison(rng: random.Random, name: str) -> str:
    (a, b), (c, d) = ((rng.randint(2, 30), rng.randint(2, 30)) for _ in range(2))
    left, right = a * b, c * d
    word = "more than" if left > right else "less than" if left < right else "as much as"
    return (
        f"Is {a} * {b} more than {c} * {d}? {name} finds {a} * {b} = {left} and {c} * {d} = {right}, "
        f"so the first is {word} the second."
    )


NEXT_CALLS = {
    "login": ("list", "list", "search", "profile"),
    "list": ("get", "get", "get", "search", "logout"),
    "search": ("get", "get", "search", "logout"),
    "get": ("get", "update", "list", "logout"),
    "update": ("get", "list", "logout"),
    "profile": ("list", "update", "logout"),
}
HANDLERS = {
    "login": "auth",
    "logout": "auth",
    "list": "orders",
    "search": "search",
    "get": "images",
    "update": "billing",
}


def _server_log() -> Rows:
    """Sessions of users on a server: what follows what, who it is, and how long it takes hang together."""
    rng = random.Random(SEED + 1)
    users = [(name.lower(), rng.randint(1, 250), rng.choice("abcdefgh")) for name in made_up_names(rng, 400, 2)]
    names = [name for name, _, _ in users]
    seconds, sessions = 0, []
    for _ in range(SESSIONS):
        seconds += rng.randint(5, 50)
        sessions.append(_session(rng, users[names.index(frequent(rng, names))], seconds))
    return text_rows(sessions)


def _session(rng: random.Random, user: tuple[str, int, str], seconds: int) -> str:
    name, address, node = user
    key = f"{rng.getrandbits(24):06x}"
    return "\n".join(
        _calls(rng, f"node-{node} session={key} user={name} from=10.0.{ord(node) - 96}.{address}", seconds)
    )


def _calls(rng: random.Random, who: str, seconds: int) -> Iterator[str]:
    call, item = "login", rng.randint(1000, 9999)
    for step in range(8):
        failed = rng.random() < 0.06
        took = round(rng.lognormvariate(3, 0.5) * (8 if failed else 1))
        time = f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        service, status = HANDLERS.get(call, "mail"), 503 if failed else 200
        what = f"{call} item={item}" if call in ("get", "update") else call
        opening = f"{time} {who} begins" if step == 0 else time
        yield f"{opening} {'WARN' if failed else 'INFO'} {service}: {what} {status} {took}ms"
        if call == "logout":
            return
        if not failed:
            call = rng.choice(NEXT_CALLS[call])
        seconds += 1 + took // 100 + rng.randint(0, 4)


CORPORA: tuple[Corpus, ...] = (
    Corpus("stories", "text", "generated by this project", "generated", stories),
    Corpus("arithmetic", "text", "generated by this project", "generated", _arithmetic),
    Corpus("server-log", "text", "generated by this project", "generated", _server_log),
)
