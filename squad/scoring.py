"""How two answers are compared: a text -> its normalised words, by the official script's rules or by MLQA's."""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

Normalize = Callable[[str], list[str]]  # a text -> the words that count

ENGLISH_ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = {
    "en": ENGLISH_ARTICLES,
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    # MLQA's pattern removes it everywhere, even inside words (its second half can match nothing)
    "ar": re.compile("ال"),
}
CHINESE = re.compile("[\u4e00-\u9fa5]")


class Scoring(NamedTuple):
    """A way to compare answers, with its name and description."""

    name: str
    language: str  # ISO 639 code; "" for none
    normalize: Normalize
    rules: str  # what it does to a text, as the predicate of a sentence


def normalize_answer(text: str) -> list[str]:
    """Lower-case the text, remove ASCII punctuation and English articles, split it: what evaluate-v2.0.py compares."""
    return ENGLISH_ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def normalize_multilingual(text: str, language: str = "") -> list[str]:
    """Lower-case the text, remove the punctuation of all scripts and the language's articles, split it; in Chinese each
    character is a word.

    These are the rules of mlqa_evaluation_v1.py (Lewis et al. 2020, arXiv 1910.07475), which knows ar, de, en, es, hi,
    vi and zh; in any other language no word is removed.

    Args: language: an ISO 639 code; "" for none.
    """
    text = "".join(c for c in text.lower() if not is_punctuation(c))
    if language in ARTICLES:
        text = ARTICLES[language].sub(" ", text)
    if language == "zh":
        text = CHINESE.sub(r" \g<0> ", text)
    return text.split()


def is_punctuation(character: str) -> bool:
    """Unicode's categories P*, and ASCII symbols such as $ and +, which string.punctuation has too."""
    return character in string.punctuation or unicodedata.category(character).startswith("P")


OFFICIAL = Scoring("official", "", normalize_answer, "removes ASCII punctuation and a, an, the")


def find_scoring(name: str, language: str = "") -> Scoring:
    """The scoring `official`, or `multilingual` for a language. Raises ValueError for another name."""
    if name == "official":
        return OFFICIAL
    if name != "multilingual":
        raise ValueError(f"scoring is {str(name)[:60]!r}, expected official or multilingual")
    articles = f"the articles of {language!r}" if language in ARTICLES else "no articles"
    rules = f"removes all Unicode punctuation and {articles}"
    rules += ", and splits Chinese into characters" * (language == "zh")
    return Scoring(name, language, partial(normalize_multilingual, language=language), rules)


def choose_scorings(name: str, language: str, contexts: Sequence[str]) -> tuple[Scoring, list[Scoring]]:
    """The scoring of this name, and those to report beside it: both where the official rules do not fit, else none."""
    both = [find_scoring(each, language) for each in ("official", "multilingual")]
    return find_scoring(name, language), [] if is_english(contexts, language) else both


def is_english(contexts: Sequence[str], language: str = "", letters: int = 1000, least: float = 0.5) -> bool:
    """Whether the official rules fit: decided by the language or, when none is given, by the script.

    By the script it is English when at least the share `least` of the contexts' first `letters` letters is ASCII, or
    when there are no letters. Spanish or German therefore counts as English unless `language` is given.
    """
    if language:
        return language == "en"
    first = list(islice((c for c in chain.from_iterable(contexts) if c.isalpha()), letters))
    return sum(c.isascii() for c in first) >= least * len(first)
