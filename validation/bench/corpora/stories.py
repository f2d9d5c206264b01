"""Short stories about a small world that this project writes itself from a fixed seed.

People, towns and rivers are the same in every story, and what a story says late follows from what it said early: a good
model of them has much to lose.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from validation.bench.corpora.corpus import text_rows
from validation.bench.rows import Rows

SEED, STORIES = 20_240, 2400
SLOT = re.compile(r"\{(\w+)\}")
Facts = dict[str, str]

ONSETS = ("b", "br", "d", "dr", "f", "g", "gr", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w")
VOWELS, CODAS = ("a", "e", "i", "o", "u", "ai", "ea"), ("", "n", "l", "r", "s", "nd", "rn", "th", "ck")
JOBS = (
    "baker",
    "carpenter",
    "teacher",
    "sailor",
    "nurse",
    "farmer",
    "printer",
    "tailor",
    "clockmaker",
    "potter",
    "miner",
)
PETS = ("dog", "cat", "goat", "parrot", "donkey", "tortoise", "raven", "pony")
FOODS = (
    "fish soup",
    "black bread",
    "roast chestnuts",
    "plum cake",
    "goat cheese",
    "pickled beans",
    "honey wine",
    "barley stew",
)
TOOLS = {
    "baker": "a wooden spoon", "carpenter": "a small saw", "teacher": "a piece of chalk", "sailor": "a coil of rope",
    "nurse": "a roll of linen", "farmer": "a curved knife", "printer": "a box of type", "tailor": "a silver needle",
    "clockmaker": "a brass key", "potter": "a lump of clay", "miner": "an old lamp",
}  # fmt: skip
GRAMMAR: dict[str, tuple[str, ...]] = {
    "story": (
        "{opening} {journey} {meeting} {find} {talk} {ending}",
        "{opening} {pet_line} {journey} {find} {ending}",
        "{opening} {meeting} {talk} {journey} {find} {pet_line} {ending}",
        "{opening} {journey} {meeting} {gift} {ending}",
    ),
    "opening": (
        "{name} was a {job} from {home}, and {their} {pet} was called {pet_name}.",
        "In {home}, on the river {home_river}, lived a {job} by the name of {name}, who kept a {pet} called {pet_name}.",
        "The {job} {name} had lived in {home} for {years} years with {pet_name} the {pet}.",
    ),
    "pet_line": (
        "{pet_name} stayed behind, as a {pet} does not like to travel.",
        "The {pet} {pet_name} {pet_does}.",
        "Nobody in {home} knew why the {pet} was called {pet_name}.",
    ),
    "pet_does": (
        "slept by the stove all day",
        "came along and was hungry",
        "ran ahead and had to be called back twice",
    ),
    "journey": (
        "In {season} {they} went to {place}, where people eat {food} and the river is called the {river}.",
        "One {day} in {season} {they} took the road to {place} to taste the {food} that the town is known for.",
        "{they_capital} crossed the {river} and came to {place}, {tired}.",
        "It is {miles} miles from {home} to {place}, and {they} walked them all in {season}.",
    ),
    "tired": (
        "tired and late",
        "before it was dark",
        "with {tool} in {their} bag",
        "where it had rained for {few} days",
    ),
    "meeting": (
        "There {they} met {friend}, a {friend_job} who carried {friend_tool}.",
        "At the inn sat {friend}, the {friend_job} of {place}, with {friend_tool} on the table.",
        "The {friend_job} {friend} was waiting at the gate of {place}.",
    ),
    "find": (
        "Under the bridge over the {river} lay a {colour} {thing} made of {stuff}.",
        "In the market of {place} {they} bought a {colour} {thing} of {stuff} for {few} coins.",
        "Somebody had lost a {colour} {thing} of {stuff}, and {they} picked it up.",
    ),
    "gift": (
        "{friend} gave {them} a {colour} {thing} of {stuff} and asked for {tool} in return.",
        '"Take this {colour} {thing}," said {friend}. "It is made of {stuff}, and a {friend_job} has no use for it."',
    ),
    "talk": (
        '"Are you the {job} from {home}?" asked {friend}. "I am," said {name}, "and this is {tool}."',
        '"What do they call your {pet}?" asked {friend}. "{pet_name}," said {name}.',
        '"How do you like our {food}?" asked {friend}. "{opinion}," said {name}.',
        "They talked about {topic} until the {food} was cold.",
    ),
    "opinion": ("I have had better in {home}", "It is as good as they say", "A {job} eats what there is"),
    "topic": (
        "the price of {stuff}",
        "the winter of {few} years ago",
        "{tool}",
        "how to cross the {river} in {season}",
    ),
    "ending": (
        "Back in {home}, {name} put the {colour} {thing} on the shelf, and {pet_name} the {pet} {liked} it.",
        "When {they} came home to the {home_river}, the {thing} was still {colour}, but {name} was no {job} any more.",
        "The {colour} {thing} is in {home} to this day; ask the {job}.",
        "{name} never went to {place} again, and the {thing} of {stuff} was sold in {home} before {season} was over.",
    ),
    "liked": ("liked", "feared", "did not look at", "slept beside"),
    "season": ("spring", "summer", "autumn", "winter"),
    "day": ("Monday", "Tuesday", "Thursday", "Friday", "Sunday"),
    "few": ("two", "three", "four", "five", "six", "seven", "nine", "twelve"),
    "years": ("ten", "eleven", "fifteen", "twenty", "thirty", "forty"),
    "miles": ("nine", "twelve", "twenty", "thirty", "fifty", "ninety"),
    "colour": ("red", "blue", "green", "yellow", "white", "black", "grey", "violet"),
    "thing": ("box", "bowl", "ring", "mask", "flute", "lantern", "button", "mirror", "whistle", "comb", "cup", "bell"),
    "stuff": ("glass", "copper", "oak", "bone", "silver", "clay", "iron", "horn", "ivory", "leather"),
}
PINNED = ("season", "colour", "thing", "stuff")  # said more than once in a story, and always the same


def made_up_names(rng: random.Random, count: int, syllables: int) -> list[str]:
    """Distinct names that can be spoken."""
    found: dict[str, None] = {}
    while len(found) < count:
        parts = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables))
        found["".join(parts).capitalize()] = None
    return list(found)


def frequent(rng: random.Random, items: Sequence[str]) -> str:
    """One of the items, the first far more often than the last: ranks as in Zipf's law."""
    return items[int(len(items) ** rng.random()) - 1]


class _World:
    """People, towns and what is true of them in every story."""

    def __init__(self, rng: random.Random) -> None:
        names = made_up_names(rng, 1400, 2)
        self.towns, self.people, pets = names[:200], names[200:800], names[800:]
        rivers = made_up_names(rng, 80, 1)
        self.river = {town: rng.choice(rivers) for town in self.towns}
        self.food = {town: rng.choice(FOODS) for town in self.towns}
        self.person = {
            name: (rng.choice(("he", "she")), rng.choice(JOBS), rng.choice(self.towns), rng.choice(PETS), pets.pop())
            for name in self.people
        }

    def facts(self, rng: random.Random) -> Facts:
        """Who and where a story is about."""
        name, friend, place = (frequent(rng, items) for items in (self.people, self.people, self.towns))
        they, job, home, pet, pet_name = self.person[name]
        friend_job = self.person[friend][1]
        return {
            **{"name": name, "job": job, "home": home, "pet": pet, "pet_name": pet_name, "tool": TOOLS[job]},
            **{"they": they, "they_capital": they.capitalize(), "their": "his" if they == "he" else "her"},
            **{"them": "him" if they == "he" else "her", "home_river": self.river[home]},
            **{"friend": friend, "friend_job": friend_job, "friend_tool": TOOLS[friend_job]},
            **{"place": place, "river": self.river[place], "food": self.food[place]},
            **{slot: rng.choice(GRAMMAR[slot]) for slot in PINNED},
        }


def _expanded(text: str, facts: Facts, rng: random.Random) -> str:
    """Slots filled with facts, and those that no fact fills with one of the grammar's alternatives."""
    return SLOT.sub(lambda slot: facts.get(slot[1]) or _expanded(rng.choice(GRAMMAR[slot[1]]), facts, rng), text)


def stories() -> Rows:
    """Rows of a story each."""
    rng = random.Random(SEED)
    world = _World(rng)
    return text_rows(_expanded("{story}", world.facts(rng), rng) for _ in range(STORIES))
