"""Examples -> windows: tokenise, find the answer's tokens, cut the context into pieces that overlap.

Only the context is cut. Neighbouring windows of a context share `overlap` tokens, so that an answer cut by the end of
one window is whole in the next, unless it is longer than the overlap. (The tokenizers library's `stride` is this
overlap; Google's `doc_stride` is the step from one window's start to the next one's.)
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from squad.align import char_to_token_span
from squad.examples import DataError, Example
from squad.windows import Ragged, Windows

CHUNK = 512  # texts tokenised at a time: limits the memory of the tokenizer's own objects

# The default sizes, in tokens: of a window, of the overlap, and of a question.
MAX_LENGTH, OVERLAP, MAX_QUESTION = 384, 128, 64


class Template(NamedTuple):
    """How a model expects a question and a piece of context: cls question sep*separators context sep."""

    cls: str
    sep: str
    pad: str
    separators: int
    spaced: bool  # whether its tokenizers make the space before a word part of it

    @property
    def special_tokens(self) -> int:
        return self.separators + 2


TEMPLATES = (Template("[CLS]", "[SEP]", "[PAD]", 1, False), Template("<s>", "</s>", "<pad>", 2, True))


def make_windows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    max_length: int = MAX_LENGTH,
    overlap: int = OVERLAP,
    max_question_tokens: int = MAX_QUESTION,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Windows:
    """Tokenise examples and cut them into labelled windows.

    Args: tokenizer: without truncation or padding of its own. progress: wraps the loop (tqdm, say).
    Raises ValueError when windows of `max_length` leave no room to step forward, DataError when the tokenizer has
    neither BERT's nor RoBERTa's special tokens or fails on a text, and what `check_tokenizer` does.
    """
    check_tokenizer(tokenizer)
    if max_question_tokens < 1:
        raise ValueError(f"max question tokens is {max_question_tokens}, expected at least 1")
    template = find_template(tokenizer)
    special = template.special_tokens
    room = max_length - special - max_question_tokens
    if room < 1:
        raise ValueError(
            f"max length is {max_length}, expected at least {special + max_question_tokens + 1}: {max_question_tokens} "
            f"tokens are kept for the question and {special} for special tokens"
        )
    if not 0 <= overlap < room:
        raise ValueError(
            f"window overlap is {overlap}, expected 0 to {room - 1}: of a max length of {max_length}, "
            f"{max_question_tokens} are kept for the question and {special} for special tokens"
        )
    numbers: dict[str, int] = {}
    context_index = np.array([numbers.setdefault(e.context, len(numbers)) for e in examples], np.int64)
    contexts, offsets = _tokenise(list(numbers), tokenizer, progress, spaced=template.spaced)
    questions, _ = _tokenise([e.question for e in examples], tokenizer, progress, max_question_tokens)
    answers = _answer_tokens(examples, offsets, context_index)
    lengths = questions.lengths, contexts.lengths[context_index]
    example_index, begin, end = cut(*lengths, max_length - special, overlap)
    shift = 1 + questions.lengths[example_index] + template.separators
    labels = _labels(answers[example_index], begin, end, shift)
    ids = (tokenizer.token_to_id(token) for token in (template.cls, template.sep, template.pad))
    return Windows(
        questions, contexts, offsets, context_index, example_index, begin, end, *labels, max_length, *ids,
        template.separators,
    )  # fmt: skip


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """Raise TypeError when it is not of the tokenizers package, ValueError when it truncates or pads.

    It would do so to texts before they are cut into windows, and answers beyond would become "no answer".
    """
    if not isinstance(tokenizer, Tokenizer):
        kind = f"{type(tokenizer).__module__}.{type(tokenizer).__name__}"
        raise TypeError(f"the tokenizer is a {kind}, expected a tokenizers.Tokenizer, as load_tokenizer() returns")
    for what, off in (("truncation", "no_truncation"), ("padding", "no_padding")):
        if getattr(tokenizer, what) is not None:
            raise ValueError(f"the tokenizer has {what} switched on, which would change texts: call its {off}() first")


def find_template(tokenizer: Tokenizer) -> Template:
    """How this tokenizer's model expects pairs. Raises DataError when its special tokens are unknown."""
    for template in TEMPLATES:
        if all(tokenizer.token_to_id(token) is not None for token in (template.cls, template.sep, template.pad)):
            return template
    wanted = " nor ".join(f"{t.cls}, {t.sep} and {t.pad}" for t in TEMPLATES)
    raise DataError(f"the tokenizer has neither {wanted}: it is neither BERT's nor RoBERTa's")


def cut(
    question_lengths: np.ndarray, context_lengths: np.ndarray, length: int, overlap: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut contexts into pieces: every token in at least one, and at least one piece per example.

    A piece holds `room` tokens, what the question leaves of `length`, and begins step = room - overlap after the one
    before it. So n context tokens take ceil((n - overlap) / step) pieces: the last one need not begin where only
    tokens of the overlap are left.

    Args: question_lengths, context_lengths (E,), of E examples; length: tokens for question and context together.
    Returns example_index, begin and end of the W pieces, each (W,).
    """
    room = length - question_lengths
    step = room - overlap
    count = np.maximum(1, -(-(context_lengths - overlap) // step))
    example_index = np.repeat(np.arange(len(count)), count)
    # the number of each piece within its example, from 0
    nth = np.arange(len(example_index)) - np.repeat(np.cumsum(count) - count, count)
    begin = nth * step[example_index]
    end = np.minimum(begin + room[example_index], context_lengths[example_index])
    return example_index, begin, end


def without_spaces(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets moved past leading white space, so that an answer read back does not begin with a space."""
    trimmed = []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        trimmed.append((start, end))
    return trimmed


def _tokenise(
    texts: list[str],
    tokenizer: Tokenizer,
    progress: Callable[[Iterable], Iterable],
    limit: int | None = None,
    spaced: bool = False,
) -> tuple[Ragged, Ragged]:
    """Texts -> rows of token ids and rows of character offsets; at most `limit` tokens of each text."""
    # array.array grows in place; a list of numpy arrays would hold everything twice when it is joined
    ids, offsets, row_splits = array("i"), array("i"), array("q", [0])
    for at in progress(range(0, len(texts), CHUNK)):
        try:
            encodings = tokenizer.encode_batch(texts[at : at + CHUNK], add_special_tokens=False)
        except Exception as error:  # tokenizers raises bare Exception
            raise DataError(f"the tokenizer fails on this text ({error}): its tokenizer.json may be damaged") from error
        for text, encoding in zip(texts[at : at + CHUNK], encodings, strict=True):
            ids.extend(encoding.ids[:limit])
            spans = encoding.offsets[:limit]
            offsets.extend(chain.from_iterable(without_spaces(text, spans) if spaced else spans))
            row_splits.append(len(ids))
    splits = np.asarray(row_splits)
    return Ragged(np.asarray(ids), splits), Ragged(np.asarray(offsets).reshape(-1, 2), splits)


def _answer_tokens(examples: Sequence[Example], offsets: Ragged, context_index: np.ndarray) -> np.ndarray:
    """(E, 2) first and last context token of each example's first answer; (-1, -1) where there is none."""
    spans = np.full((len(examples), 2), -1, np.int64)
    for i, example in enumerate(examples):
        if example.answers:
            answer = example.answers[0]
            span = char_to_token_span(offsets[context_index[i]], answer.start, answer.end)
            spans[i] = (-1, -1) if span is None else span
    return spans


def _labels(answers: np.ndarray, begin: np.ndarray, end: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, ...]:
    """Context tokens (W, 2) -> start and end positions (W,), 0 where the window lacks any of the answer's tokens."""
    first, last = answers.T
    whole = (first >= begin) & (last < end) & (first >= 0)
    return np.where(whole, first - begin + shift, 0), np.where(whole, last - begin + shift, 0)
