"""Tables and series that this project draws itself from a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from scipy import signal, special

from validation.bench.corpora.corpus import Corpus, series_rows, table_rows
from validation.bench.rows import Rows

SEED = 20_250
PEOPLE = ORDERS = 8000
STEPS = 160_000  # of a series
DAY, WEEK = 48, 48 * 7  # steps

# Of every class of people: share, then mean and spread of age, and the means of the logarithm of the yearly income in
# thousands, of hours at work, and of years at school.
CLASSES = {
    "student": (0.14, 22, 3, 2.2, 12, 14),
    "worker": (0.30, 41, 10, 3.4, 40, 11),
    "clerk": (0.22, 39, 11, 3.6, 38, 13),
    "professional": (0.13, 45, 9, 4.3, 45, 17),
    "retired": (0.17, 71, 7, 3.0, 0, 11),
    "self-employed": (0.04, 48, 10, 3.8, 52, 12),
}
TOWNS = {"Arn": "north", "Belt": "north", "Corvo": "north", "Dunmar": "south", "Esk": "south", "Farlo": "south"}
TOWNS |= {"Gant": "east", "Hove": "east", "Ilm": "west"}
CARS = ("none", "small", "middle", "large")
PRODUCTS = {
    "tea": ("kitchen", 6.5), "coffee": ("kitchen", 9.9), "kettle": ("kitchen", 34.0), "pan": ("kitchen", 27.5),
    "lamp": ("home", 49.0), "chair": ("home", 119.0), "rug": ("home", 210.0), "clock": ("home", 38.0),
    "novel": ("books", 12.0), "atlas": ("books", 45.0), "diary": ("books", 8.5), "poster": ("books", 15.0),
    "rope": ("garden", 11.0), "spade": ("garden", 24.0), "seeds": ("garden", 3.2), "hose": ("garden", 31.0),
    "ball": ("sport", 18.0), "racket": ("sport", 85.0), "tent": ("sport", 164.0), "skates": ("sport", 99.0),
}  # fmt: skip
COUNTRIES = {  # currency, days until delivery, cities
    "Norway": ("NOK", 4, ("Oslo", "Bergen", "Tromso")), "France": ("EUR", 2, ("Paris", "Lyon", "Lille", "Brest")),
    "Spain": ("EUR", 3, ("Madrid", "Sevilla", "Bilbao")), "Poland": ("PLN", 3, ("Warszawa", "Krakow")),
    "Japan": ("JPY", 9, ("Tokyo", "Osaka", "Sapporo")), "Canada": ("CAD", 7, ("Toronto", "Halifax")),
    "Kenya": ("KES", 8, ("Nairobi", "Mombasa")), "Germany": ("EUR", 2, ("Berlin", "Hamburg", "Kiel", "Bonn")),
}  # fmt: skip


def _population() -> Rows:
    """People of six classes; within a class a Gaussian copula ties age, income, work, school, height and way to work."""
    rng = np.random.default_rng(SEED)
    names, values = np.array(list(CLASSES)), np.array(list(CLASSES.values()))
    kinds = rng.choice(len(names), PEOPLE, p=values[:, 0])
    _, age_mean, age_spread, income, hours, school = values[kinds].T
    z = _factor_scores(rng)
    age = np.clip(np.rint(age_mean + age_spread * z[:, 0]), 16, 99)
    earned = np.exp(income + 0.35 * z[:, 1] + 0.004 * (age - 40))
    place = special.ndtr(z[:, 4]) * 0.7 + 0.3 * rng.random(PEOPLE)
    town = (place * len(TOWNS)).astype(int)
    female = rng.random(PEOPLE) < 0.5
    columns = {
        "class": names[kinds],
        "age": age,
        "sex": np.where(female, "f", "m"),
        "region": np.array(list(TOWNS.values()))[town],
        "town": np.array(list(TOWNS))[town],
        "school": np.clip(school + np.rint(2 * z[:, 3]), 6, 22),
        "hours": np.where(hours > 0, np.maximum(1, hours + np.rint(6 * z[:, 2])), 0),
        "income": np.rint(earned),
        "savings": np.rint(earned * np.maximum(0, 0.25 + 0.12 * z[:, 5])),
        "children": rng.poisson(np.where((age > 26) & (age < 75), 1.6, 0.05)),
        "car": np.array(CARS)[np.digitize(earned * (1 + 0.3 * z[:, 5]), (14, 35, 70))],
        "height": np.rint(np.where(female, 165, 178) + 6 * z[:, 4]),
        "way": np.where(hours > 0, np.rint(5 * np.exp(1 + 0.6 * z[:, 5])), 0),
    }
    return table_rows(list(columns), zip(*columns.values(), strict=True))


def _factor_scores(rng: np.random.Generator) -> Float[np.ndarray, "people 6"]:
    """Six normal variables of variance one that hang together by two common factors."""
    loads = np.array([[0.5, 0.0], [0.6, 0.6], [0.3, 0.7], [-0.2, 0.8], [0.1, 0.4], [-0.5, 0.6]])
    own = np.sqrt(1 - (loads**2).sum(axis=1))
    return rng.standard_normal((PEOPLE, 2)) @ loads.T + own * rng.standard_normal((PEOPLE, len(loads)))


def _orders() -> Rows:
    """Orders of a shop: city gives country and currency, product gives category and price, and the total adds up."""
    rng = np.random.default_rng(SEED + 1)
    cities = [(city, country) for country, (_, _, names) in COUNTRIES.items() for city in names]
    liking = rng.dirichlet(np.full(len(PRODUCTS), 0.6), len(COUNTRIES))  # what a country buys
    weight = 1 / np.arange(1, len(cities) + 1)
    weight /= weight.sum()

    def records() -> Iterator[tuple[object, ...]]:
        for _ in range(ORDERS):
            city, country = cities[rng.choice(len(cities), p=weight)]
            currency, days, _ = COUNTRIES[country]
            product = list(PRODUCTS)[rng.choice(len(PRODUCTS), p=liking[list(COUNTRIES).index(country)])]
            category, price = PRODUCTS[product]
            month, customer = int(rng.integers(1, 13)), ("new", "regular", "business")[rng.choice(3, p=(0.3, 0.5, 0.2))]
            quantity = int(rng.geometric(0.25 if customer == "business" else 0.6))
            discount = 10 * (quantity > 4) + 5 * (customer == "regular") + 20 * (month == 1)
            total = round(price * quantity * (100 - discount) / 100, 2)
            express = bool(rng.random() < (0.5 if total > 150 else 0.1))
            shipped = 1 if express else days + int(rng.integers(0, 3))
            yield (
                *(month, customer, city, country, currency, category, product, price, quantity, discount, total),
                *("express" if express else "standard", shipped, 0 if total > 100 and not express else 9.9),
            )

    columns = "month customer city country currency category product price quantity discount total shipping days fee"
    return table_rows(columns.split(), records())


def _seasonal() -> Float[np.ndarray, " t"]:
    """Day and week, with a strength that wanders, and autocorrelated noise."""
    rng = np.random.default_rng(SEED + 2)
    step = np.arange(STEPS)
    strength = np.exp(0.5 * _autoregressive(rng, 0.9995))
    daily = np.sin(2 * np.pi * step / DAY) + 0.4 * np.sin(4 * np.pi * step / DAY + 1)
    weekly = np.where(step % WEEK >= 5 * DAY, 0.5, 1.0)
    return strength * daily * weekly + 0.25 * _autoregressive(rng, 0.8)


def _autoregressive(rng: np.random.Generator, keep: float) -> Float[np.ndarray, " t"]:
    """A process of order one with variance one."""
    noise = rng.standard_normal(STEPS) * np.sqrt(1 - keep**2)
    return np.asarray(signal.lfilter([1.0], [1.0, -keep], noise))


def _regimes() -> Float[np.ndarray, " t"]:
    """Four states that follow one another: calm, swinging, rising and burst, each with dynamics of its own."""
    rng = np.random.default_rng(SEED + 3)
    coefficients = np.array([[0.9, 0.0], [1.85, -0.97], [0.99, 0.0], [-0.5, 0.2]])
    spread, drift = (0.15, 0.12, 0.1, 1.0), (0.0, 0.0, 0.06, 0.2)
    following = ((0, 6, 3, 1), (5, 0, 2, 3), (4, 4, 0, 2), (8, 1, 1, 0))
    noise, values, state = rng.standard_normal(STEPS), np.zeros(STEPS), 0
    for step in range(2, STEPS):
        if rng.random() < 0.012:
            state = int(rng.choice(4, p=np.array(following[state]) / 10))
        first, second = coefficients[state]
        value = first * values[step - 1] + second * values[step - 2] + drift[state] + spread[state] * noise[step]
        values[step] = min(max(value, -6.0), 6.0)
    return values


def _drifting() -> Float[np.ndarray, " t"]:
    """Three waves whose phases wander, and a little noise."""
    rng = np.random.default_rng(SEED + 4)
    total = 0.1 * rng.standard_normal(STEPS)
    for period, height in ((11.3, 0.6), (29.0, 1.0), (173.0, 0.8)):
        phase = 2 * np.pi * np.arange(STEPS) / period + np.cumsum(rng.standard_normal(STEPS)) * 0.04
        total += height * np.sin(phase)
    return total


def _mackey_glass() -> Float[np.ndarray, " t"]:
    """Chaos with a delay of 30, every third unit of time.

    Source: Mackey and Glass 1977, Science 197: dx/dt = 0.2 x(t-30) / (1 + x(t-30)^10) - 0.1 x(t), by Euler's method with
    steps of one half.
    """
    delay, every, first = 60, 6, 2000
    values = [1.2] * (delay + 1)
    for _ in range(first + STEPS * every):
        late, power = values[-1 - delay], values[-1 - delay] ** 10
        values.append(values[-1] + 0.5 * (0.2 * late / (1 + power) - 0.1 * values[-1]))
    return np.array(values[-STEPS * every :: every])


OURS = ("generated by this project", "generated")
CORPORA: tuple[Corpus, ...] = (
    Corpus("population", "table", *OURS, _population, "class"),
    Corpus("shop-orders", "table", *OURS, _orders, "category"),
    Corpus("seasonal", "series", *OURS, lambda: series_rows([_seasonal()])),
    Corpus("regimes", "series", *OURS, lambda: series_rows([_regimes()])),
    Corpus("drifting-waves", "series", *OURS, lambda: series_rows([_drifting()])),
    Corpus("mackey-glass", "series", *OURS, lambda: series_rows([_mackey_glass()])),
)
