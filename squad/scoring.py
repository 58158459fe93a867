"""What two answers are compared by: a text -> its words, after the official script's rules or MLQA's."""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

Words = Callable[[str], list[str]]

ENGLISH_ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = {
    "en": ENGLISH_ARTICLES,
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    # MLQA's pattern has a second half that can match nothing; so this is taken out wherever it stands, inside words too
    "ar": re.compile("ال"),
}
CHINESE = re.compile("[\u4e00-\u9fa5]")


class Scoring(NamedTuple):
    """A way to compare answers, and how to speak of it."""

    name: str
    language: str  # ISO 639 code; "": none
    words: Words
    rules: str  # what is done to a text, to follow the name in a sentence


def official_words(text: str) -> list[str]:
    """Lower case, no ASCII punctuation, no English articles: what evaluate-v2.0.py compares."""
    return ENGLISH_ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def multilingual_words(text: str, language: str = "") -> list[str]:
    """Lower case, no punctuation of any script, no articles of the language; in Chinese each character is a word.

    These are the rules of mlqa_evaluation_v1.py (Lewis et al. 2020, arXiv 1910.07475), which knows ar, de, en, es, hi,
    vi and zh; any other language is split at white space and keeps all its words.

    Args: language: an ISO 639 code; "": none, no articles go.
    """
    text = "".join(c for c in text.lower() if not is_punctuation(c))
    if language in ARTICLES:
        text = ARTICLES[language].sub(" ", text)
    if language == "zh":
        text = CHINESE.sub(r" \g<0> ", text)
    return text.split()


def is_punctuation(character: str) -> bool:
    """Unicode's categories P*, and the ASCII symbols such as $ and + that string.punctuation has besides."""
    return character in string.punctuation or unicodedata.category(character).startswith("P")


OFFICIAL = Scoring("official", "", official_words, "takes out ASCII punctuation and a, an, the")


def find_scoring(name: str, language: str = "") -> Scoring:
    """`official` or `multilingual`, the latter for a language. Raises ValueError for another name."""
    if name == "official":
        return OFFICIAL
    if name != "multilingual":
        raise ValueError(f"scoring is {str(name)[:60]!r}, expected official or multilingual")
    articles = f"the articles of {language!r}" if language in ARTICLES else "no articles"
    rules = f"takes out all Unicode punctuation and {articles}"
    rules += ", and splits Chinese into characters" * (language == "zh")
    return Scoring(name, language, partial(multilingual_words, language=language), rules)


def choose_scorings(name: str, language: str, contexts: Sequence[str]) -> tuple[Scoring, list[Scoring]]:
    """The scoring asked for, and those to put beside it: none for English, both where official rules do not fit."""
    both = [find_scoring(each, language) for each in ("official", "multilingual")]
    return find_scoring(name, language), [] if is_english(contexts, language) else both


def is_english(contexts: Sequence[str], language: str = "", letters: int = 1000, least: float = 0.5) -> bool:
    """Whether the official rules may be taken to fit: the language says so, or where none is given the script.

    The script: at least the share `least` of the first so many letters of the contexts is ASCII; true where they have
    none. So Spanish or German passes for English unless `language` tells.
    """
    if language:
        return language == "en"
    first = list(islice((c for c in chain.from_iterable(contexts) if c.isalpha()), letters))
    return sum(c.isascii() for c in first) >= least * len(first)
