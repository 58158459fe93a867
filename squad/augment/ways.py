"""Answerable questions -> unanswerable ones, by changing one thing or by leaving the answer's sentence out.

Most unanswerable questions of SQuAD 2.0 were written by changing one thing in a question that the text answers: a name,
a number, a word into its opposite (Rajpurkar et al. 2018, table 1). Here rules do the same, on cased English text.
Others ask about something that the text leaves out; those are made by taking the sentence that has the answer away.
"""

import dataclasses
import functools
import itertools
import random
import re
from collections.abc import Sequence

from squad.examples import Example

MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
NAME = r"[A-Z][\w'-]*\w(?: (?:of |the |de |von )?[A-Z][\w'-]*\w)*"
# The first pattern that fits decides; group 1 is the entity. A place is a name behind a preposition of place.
PATTERNS = {
    "date": rf"\b({MONTH} \d{{1,2}}, \d{{4}}|\d{{1,2}} {MONTH}(?: \d{{4}})?|{MONTH} \d{{1,4}})\b",
    "year": r"\b(1\d{3}|20\d{2})\b(?![,.]\d)",
    "number": r"(?<![\w.,])(\d+(?:,\d{3})*(?:\.\d+)?)(?![\w,]|\.\d)",
    "place": rf"\b(?:in|at|from|near) ({NAME})",
    "name": rf"(?<=[\w,;:] )({NAME})",
}
OPPOSITES = (
    "first last", "largest smallest", "highest lowest", "most least", "before after", "increase decrease",
    "increased decreased", "north south", "northern southern", "east west", "eastern western", "early late", "old new",
    "oldest newest", "best worst", "long short", "longest shortest", "begin end", "began ended", "start end",
    "won lost", "win lose", "allowed forbidden", "public private", "strong weak", "high low", "rich poor",
    "male female", "above below", "upper lower", "inside outside", "major minor", "positive negative", "common rare",
    "accepted rejected",
)  # fmt: skip
OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair.split(), pair.split()[::-1])}
NEGATION = r"\b(?:not|cannot|never|no|none|nor|neither|nobody|nothing|without)\b|n['\u2019]t\b"
LEAST = 20  # words of a text that is worth asking
TO_NEGATE = r"\b(is|are|was|were) (?=\w+(?:ed|en|ing)\b)"  # before a verb, where English puts "not"


def augment(examples: Sequence[Example], count: int, left_out: int = 0, *, seed: int) -> list[Example]:
    """Up to `count` new questions by `unanswerable`, then up to `left_out` by `leave_out`, none with an answer.

    No two of one kind are made of the same example. The result depends on nothing but the arguments; what is made of
    an example, only on seed and example.
    """
    chosen = [example for example in examples if example.answers]
    random.Random(seed).shuffle(chosen)
    asked = (unanswerable(example, random.Random(f"{seed} {example.id}")) for example in chosen)
    kinds = {"made": (asked, count), "left": (map(leave_out, chosen), left_out)}
    return [
        dataclasses.replace(new, id=f"{new.id}-{kind}-{seed}", answers=(), is_impossible=True)
        for kind, (found, most) in kinds.items()
        for new in itertools.islice(filter(None, found), most)
    ]


def leave_out(example: Example) -> Example | None:
    """An answerable example without the sentences that hold its gold answers.

    None when fewer than LEAST words would be left, or when the rest of the text has one of the answers too: it might
    answer the question.
    """
    context, kept, at = example.context, [], 0
    for start, end in sorted({sentence_span(context, answer.start, answer.end) for answer in example.answers}):
        kept.append(context[at:start])
        at = max(at, end)
    rest = " ".join(filter(None, map(str.strip, [*kept, context[at:]])))
    if len(rest.split()) < LEAST or any(_has(rest, answer.text) for answer in example.answers):
        return None
    return dataclasses.replace(example, context=rest)


def unanswerable(example: Example, rng: random.Random) -> Example | None:
    """An answerable example with its question changed in one place so that the text does not answer it; or None.

    The sentences that hold the gold answers must not hold what was put in: a question about that sentence and that
    thing might be answered by the old answer after all. Nothing checks the rest of the text.
    """
    evidence = " ".join(sentence_around(example.context, a.start, a.end) for a in example.answers)
    ways = [swap_entity, swap_opposite, negate]
    rng.shuffle(ways)
    for way in ways:
        if question := way(example.question, example.context, evidence, rng):
            return dataclasses.replace(example, question=question)
    return None


def swap_entity(question: str, context: str, evidence: str, rng: random.Random) -> str | None:
    """Another entity of the same type from the context in place of one of the question's; None if there is none.

    The old one must be in the evidence, the new one neither in the evidence nor in the question; they share no word.
    """
    types = entities(context)
    found = [entity for entity in entities(question) if entity in types and _has(evidence, entity)]
    rng.shuffle(found)
    near = set(re.findall(r"\w+", f"{evidence} {question}".lower()))
    for old in found:
        others = [new for new in types if types[new] == types[old] and not near & set(re.findall(r"\w+", new.lower()))]
        if others:
            new = rng.choice(others)
            return re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _, new=new: new, question, count=1)
    return None


def swap_opposite(question: str, context: str, evidence: str, rng: random.Random) -> str | None:
    """One word of the question replaced by its opposite, which is not in the evidence; None if there is none."""
    found = [word for word in re.findall(r"\w+", question) if word in OPPOSITE and not _has(evidence, OPPOSITE[word])]
    if not found:
        return None
    word = rng.choice(found)
    return re.sub(rf"\b{word}\b", OPPOSITE[word], question, count=1)


def negate(question: str, context: str, evidence: str, rng: random.Random) -> str | None:
    """`not` put into the question, when neither it nor the evidence has a negation; None if there is no place."""
    if re.search(NEGATION, f"{question} {evidence}", re.IGNORECASE):
        return None
    negated = re.sub(TO_NEGATE, r"\1 not ", question, count=1)
    return negated if negated != question else None


@functools.lru_cache(maxsize=10_000)  # several questions have the same context
def entities(text: str) -> dict[str, str]:
    """Entity -> type (date, year, number, place, name), in order of appearance within a type; the first type holds."""
    found: dict[str, str] = {}
    for kind, pattern in PATTERNS.items():
        for match in re.finditer(pattern, text):
            found.setdefault(match[1], kind)
    return found


def sentence_around(context: str, start: int, end: int) -> str:
    """The sentence that context[start:end] is in."""
    begin, stop = sentence_span(context, start, end)
    return context[begin:stop]


def sentence_span(context: str, start: int, end: int) -> tuple[int, int]:
    """Where the sentence that context[start:end] is in starts and ends, found by full stops and the like."""
    left = re.split(r"(?<=[.!?])\s+", context[:start])[-1]
    right = re.split(r"(?<=[.!?])\s+", context[end:])[0]
    return start - len(left), end + len(right)


def _has(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None
