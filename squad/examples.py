"""SQuAD JSON -> examples. Versions 1.1 and 2.0 (Rajpurkar et al. 2016, 2018), plain or gzipped."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from minihub import json_type, parse_object

# Bytes, 50 times the official train file. Counted after unpacking, so that a small .gz cannot fill the memory.
LARGEST = 2**31


class DataError(ValueError):
    """A data file cannot be used; the message names the file, the article and the question."""


class WrongOffsetError(DataError):
    """An answer is not in its context at its answer_start."""


class Answer(NamedTuple):
    """A gold answer: context[start : start + len(text)] is its text."""

    text: str
    start: int  # first character in the context

    @property
    def end(self) -> int:
        """One past the last character in the context."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Example:
    """One question about one context. `answers` is empty when the text has none (`is_impossible`)."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    is_impossible: bool
    title: str


def read_examples(
    source: str | Path | dict, on_bad: Callable[[DataError], None] | None = None, need_answers: bool = True
) -> list[Example]:
    """Read a SQuAD file (.json or .json.gz), or what it holds as a dict, into examples, in file order.

    An answer must be the slice of its context that starts at `answer_start`. An id that occurs twice is an error, and
    so is a question whose is_impossible contradicts its answers.

    Args:
        on_bad: called with the error of each malformed question, which is then left out; without it the first one
            raises.
        need_answers: False reads only ids, questions and contexts, as for a test set without gold answers. All of them
            then count as unanswerable, so they must not be scored.
    Raises DataError when the file, or (without on_bad) a question in it, is malformed.
    """
    examples, seen = [], set()
    for qa, context, title, where in _questions(source):
        try:
            example = _example(qa, context, title, where, need_answers)
            if example.id in seen:
                raise DataError(f"{where}, question {example.id}: this id occurs twice")
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        seen.add(example.id)
        examples.append(example)
    return examples


def _questions(source: str | Path | dict) -> Iterator[tuple[object, str, str, str]]:
    """Every question of the file as it is there, with its context, its article's title, and how an error begins."""
    path = "the dict" if isinstance(source, dict) else source
    articles = _field(source, "data", list, path) if isinstance(source, dict) else _load(Path(source))
    for number, article in enumerate(articles):
        title = (isinstance(article, dict) and article.get("title")) or f"article {number}"
        where = f"{path}: article {str(title)[:60]!r}"
        _check_text(str(title), f"{where}: its title")
        for paragraph in _field(article, "paragraphs", list, where):
            context = _text(paragraph, "context", where)
            for qa in _field(paragraph, "qas", list, where):
                yield qa, context, str(title), where


def _load(path: Path) -> list:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(text) > LARGEST:
        raise DataError(f"{path}: over {LARGEST:,} bytes of JSON, too many to hold in memory; split the file")
    return _field(parse_object(text, str(path), DataError), "data", list, str(path))


def _example(qa: dict, context: str, title: str, where: str, need_answers: bool) -> Example:
    id = _text(qa, "id", where)
    where = f"{where}, question {id[:60]}"
    question = _text(qa, "question", where)
    if not need_answers:
        return Example(id, question, context, (), True, title)
    answers = tuple(_answer(item, context, where) for item in _field(qa, "answers", list, where))
    is_impossible = qa.get("is_impossible", not answers)
    if not isinstance(is_impossible, bool):
        raise DataError(f"{where}: is_impossible is {str(is_impossible)[:60]!r}, expected true or false")
    if is_impossible == bool(answers):
        raise DataError(f"{where}: is_impossible is {is_impossible}, but there are {len(answers)} answers")
    return Example(id, question, context, answers, is_impossible, title)


def _answer(item: dict, context: str, where: str) -> Answer:
    text = _field(item, "text", str, where)
    start = _field(item, "answer_start", int, where)
    found = context[start : start + len(text)] if start >= 0 else None
    if not text or found != text:
        there = (found or "")[:60]
        raise WrongOffsetError(f"{where}: answer {text[:60]!r} at {start}, but the context has {there!r} there")
    return Answer(text, start)


def _text(value: object, name: str, where: str) -> str:
    text = _field(value, name, str, where)
    _check_text(text, f"{where}: {name!r}")
    return text


def _check_text(text: str, what: str) -> None:
    """Raise DataError for half a surrogate pair, which JSON can express and UTF-8 cannot, and for NUL."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} has half a surrogate pair at character {error.start}, expected whole ones") from None
    if "\0" in text:
        raise DataError(f"{what} has a NUL at character {text.index(chr(0))}, expected text")


def _field(value: object, name: str, kind: type, where: str):
    """value[name], which must be of type `kind`."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {json_type(value)} where an object with {name!r} was expected")
    if name not in value:
        raise DataError(f"{where}: {name!r} is missing, expected {json_type(kind())}")
    if type(value[name]) is not kind:
        raise DataError(f"{where}: {name!r} is {json_type(value[name])}, expected {json_type(kind())}")
    return value[name]
