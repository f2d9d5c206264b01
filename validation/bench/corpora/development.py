"""Texts of the development data, whose folder the environment variable ATLAS_DEV_DATA names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from validation.bench.corpora.corpus import LINES, Corpus, MissingCorpus, labelled_rows, text_rows
from validation.bench.rows import Rows

FOLDER = "ATLAS_DEV_DATA"
SAME_PASSAGE = 80  # characters: two that begin alike are cuts of one passage
GENESIS_ENCODINGS = {
    "english-kjv": "ascii",
    "english-web": "ascii",
    "finnish": "latin-1",
    "french": "latin-1",
    "german": "latin-1",
    "lolcat": "utf-8",
    "portuguese": "utf-8",
    "swedish": "cp850",
}


def data_file(path: str) -> Path:
    """A file of the development data.

    Raises:
      MissingCorpus: no folder is set, or it has no such file.
    """
    if not os.environ.get(FOLDER):
        raise MissingCorpus(f"{path}: {FOLDER} is not set; expected the folder of the development data sets")
    file = Path(os.environ[FOLDER]) / path
    if not file.is_file():
        raise MissingCorpus(f"{file}: no such file; expected {FOLDER} to name the folder of the development data sets")
    return file


def _text(path: str, encoding: str = "utf-8") -> str:
    return data_file(path).read_text(encoding=encoding)


def _json(path: str) -> Any:
    return json.loads(_text(path))


def _json_lines(path: str) -> Iterator[Any]:
    return (json.loads(line) for line in _text(path).splitlines())


def _wikitext() -> Rows:
    """Lines are paragraphs there, with white space around them."""
    texts = (_text(f"text_wikitext2/{part}.txt") for part in ("valid", "test"))
    return text_rows("\n".join(line.strip() for line in text.splitlines() if line.strip()) for text in texts)


def _shakespeare() -> Rows:
    return text_rows([_text("text_tinyshakespeare/input.txt")], LINES)


def _republic() -> Rows:
    """The book without what Project Gutenberg wrote around it."""
    text = _text("text_plato_republic/republic.txt")
    start = text.index("\n", text.index("*** START OF THIS PROJECT GUTENBERG EBOOK"))
    return text_rows([text[start : text.index("*** END OF THIS PROJECT GUTENBERG EBOOK")]])


def _movie_reviews() -> Rows:
    reviews = _json_lines("text_movie_reviews/movie_reviews.jsonl")
    return labelled_rows((review["text"], review["label"]) for review in reviews)


def _state_union() -> Rows:
    return text_rows(speech["text"] for speech in _json_lines("text_state_union/state_union.jsonl"))


def _genesis() -> Rows:
    """Verse by verse in seven languages and one that is none; the class is the translation."""
    return labelled_rows(
        (_text(f"text_genesis_multilingual/{name}.txt", encoding), name) for name, encoding in GENESIS_ENCODINGS.items()
    )


def _passages() -> Rows:
    """What people wrote of the pairs of human and machine text; the files cut the same passages differently."""
    folder = data_file("hm_fast_detect_xsum_squad/exp_main__xsum_gpt2-xl.raw_data.json").parent
    passages: dict[str, str] = {}
    for path in sorted(folder.glob("*.raw_data.json")):
        for passage in json.loads(path.read_text(encoding="utf-8"))["original"]:
            passages.setdefault(passage[:SAME_PASSAGE], passage)
    return text_rows(passages.values())


def _instructions(*paths: str) -> Rows:
    """Records of an instruction, its input where there is one, and the output."""
    return text_rows(_rendered(record for path in paths for record in _json(path)), LINES)


def _rendered(records: Iterable[dict[str, str]]) -> Iterator[str]:
    parts = (("Instruction", "instruction"), ("Input", "input"), ("Output", "output"))
    for record in records:
        yield "\n".join(f"{title}: {record[field]}" for title, field in parts if record[field].strip())


def _toolformer() -> Rows:
    return _instructions("bad_gpteacher_toolformer_dups/toolformer-dedupe-only-dataset.json")


def _alpaca() -> Rows:
    return _instructions("hm_alpaca_5000/alpaca_5000.json")


def _code_alpaca() -> Rows:
    return _instructions("hm_code_alpaca/code_alpaca_2k.json", "hm_code_alpaca/new_codealpaca.json")


def _scan() -> Rows:
    return text_rows(
        line for part in ("train", "test") for line in _text(f"tta_scan_simple/tasks_{part}_simple.txt").splitlines()
    )


def _big_bench_hard() -> Rows:
    folder = data_file("tta_bbh/date_understanding.json").parent
    tasks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return text_rows(
        (f"{example['input']}\nAnswer: {example['target']}" for task in tasks for example in task["examples"]), LINES
    )


def _corpus(name: str, licence: str, reader: Callable[[], Rows], label: str | None = None) -> Corpus:
    return Corpus(name, "text", licence, "development data", reader, label)


CORPORA: tuple[Corpus, ...] = (
    _corpus("wikitext-2", "CC BY-SA 3.0 (Wikipedia)", _wikitext),
    _corpus("tinyshakespeare", "public domain", _shakespeare),
    _corpus("plato-republic", "public domain (Project Gutenberg)", _republic),
    _corpus("movie-reviews", "CC BY 4.0 (NLTK)", _movie_reviews, "label"),
    _corpus("state-union", "public domain (NLTK)", _state_union),
    _corpus("genesis", "public domain (NLTK)", _genesis, "label"),
    _corpus("xsum-squad-human", "MIT (collection); texts of the BBC, and of Wikipedia under CC BY-SA", _passages),
    _corpus("toolformer", "MIT (GPTeacher), written by a machine", _toolformer),
    _corpus("alpaca", "CC BY-NC 4.0 (Stanford Alpaca), written by a machine", _alpaca),
    _corpus("code-alpaca", "CC BY-NC 4.0 (Code Alpaca), written by a machine", _code_alpaca),
    _corpus("scan", "BSD (SCAN, Facebook)", _scan),
    _corpus("bbh", "MIT (BIG-Bench Hard); a test set, which no model that is kept may see", _big_bench_hard),
)
