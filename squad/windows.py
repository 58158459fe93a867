"""Examples -> windows: `[CLS] question [SEP] a piece of the context [SEP]`, at most `max_length` tokens each.

RoBERTa and XLM-R write `<s> question </s></s> a piece of the context </s>`. Which it is, the tokenizer tells.

Only the context is cut. Consecutive windows of one context share `overlap` tokens, so that an answer cut by
the end of one window stands whole in the next. (Google's `doc_stride` is the step between window starts, the
tokenizers library's `stride` is the overlap; here it is always the overlap.)

Everything lies in flat arrays with row offsets: row i of `ids` is ids[rows[i]:rows[i + 1]]. A context is
tokenised and stored once however many questions and windows it has.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from squad.align import char_to_token_span
from squad.examples import DataError, Example

CHUNK = 512  # texts tokenised at a time: bounds the memory taken by the tokenizer's own objects


class Template(NamedTuple):
    """How a question and a piece of context are put together: cls question sep*between context sep."""

    cls: str
    sep: str
    pad: str
    between: int
    blanks: bool  # whether its tokenizers count the blank before a word to the word

    @property
    def special_tokens(self) -> int:
        return self.between + 2


TEMPLATES = (Template("[CLS]", "[SEP]", "[PAD]", 1, False), Template("<s>", "</s>", "<pad>", 2, True))


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array; row i is values[rows[i]:rows[i + 1]]."""

    values: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.rows[i] : self.rows[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.rows)


@dataclass(frozen=True)
class Windows:
    """The windows of a list of examples. E examples, C distinct contexts, W windows.

    Positions count from [CLS] = 0; the context of window w begins at position `context_positions(w)`.
    A window that does not hold the whole answer is labelled (0, 0): as far as it can see, there is none.
    """

    questions: Ragged  # E rows of token ids
    contexts: Ragged  # C rows of token ids
    offsets: Ragged  # C rows of (start, end) characters, one pair a token
    context: np.ndarray  # (E,) the context of each example
    example: np.ndarray  # (W,) the example of each window, never decreasing
    begin: np.ndarray  # (W,) first context token
    end: np.ndarray  # (W,) one past the last
    start_positions: np.ndarray  # (W,) label: first answer token, 0 for no answer
    end_positions: np.ndarray  # (W,) label: last answer token, 0 for no answer
    max_length: int  # tokens, the limit they were cut to
    cls_id: int
    sep_id: int
    pad_id: int
    between: int  # separators between question and context; one more closes the window

    def __len__(self) -> int:
        return len(self.example)

    def context_positions(self, window: np.ndarray) -> np.ndarray:
        """Where the context of each of these windows begins: after [CLS], the question and the separators."""
        example = self.example[window]
        return self.questions.rows[example + 1] - self.questions.rows[example] + 1 + self.between

    @property
    def lengths(self) -> np.ndarray:
        """(W,) tokens in each window, special ones counted."""
        return self.questions.lengths[self.example] + self.end - self.begin + self.between + 2

    def char_spans(self, window: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Spans of positions [first, last] in windows -> (n, 2) character spans of their contexts.

        Args: three integer arrays of n; positions must lie in the window's context.
        """
        row = self.offsets.rows[self.context[self.example[window]]]
        shift = row + self.begin[window] - self.context_positions(window)
        return np.stack([self.offsets.values[shift + first, 0], self.offsets.values[shift + last, 1]], axis=-1)


def make_windows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    max_length: int = 384,
    overlap: int = 128,
    max_question_tokens: int = 64,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Windows:
    """Tokenise examples and cut them into labelled windows.

    Args: tokenizer: without truncation or padding of its own. progress: wraps the loop (tqdm, say).
    Raises ValueError when windows of `max_length` leave no room to step forward, DataError when the
    tokenizer has neither BERT's nor RoBERTa's special tokens.
    """
    if max_question_tokens < 1:
        raise ValueError(f"max question tokens is {max_question_tokens}, expected at least 1")
    template = find_template(tokenizer)
    special = template.special_tokens
    room = max_length - special - max_question_tokens
    if not 0 <= overlap < room:
        raise ValueError(
            f"window overlap is {overlap}, expected 0 to {room - 1}: of a max length of {max_length}, "
            f"{max_question_tokens} go to the question and {special} to special tokens"
        )
    numbers: dict[str, int] = {}
    context = np.array([numbers.setdefault(e.context, len(numbers)) for e in examples], np.int64)
    contexts, offsets = _tokenise(list(numbers), tokenizer, progress, blanks=template.blanks)
    questions, _ = _tokenise([e.question for e in examples], tokenizer, progress, max_question_tokens)
    answers = _answer_tokens(examples, offsets, context)
    example, begin, end = cut(questions.lengths, contexts.lengths[context], max_length - special, overlap)
    shift = questions.lengths[example] + 1 + template.between
    start_positions, end_positions = _labels(answers[example], begin, end, shift)
    ids = (tokenizer.token_to_id(token) for token in (template.cls, template.sep, template.pad))
    return Windows(
        questions, contexts, offsets, context, example, begin, end, start_positions, end_positions, max_length,
        *ids, template.between,
    )  # fmt: skip


def find_template(tokenizer: Tokenizer) -> Template:
    """How this tokenizer's model expects pairs. Raises DataError when its special tokens are unknown."""
    for template in TEMPLATES:
        if all(tokenizer.token_to_id(token) is not None for token in (template.cls, template.sep, template.pad)):
            return template
    wanted = " nor ".join(f"{t.cls}, {t.sep} and {t.pad}" for t in TEMPLATES)
    raise DataError(f"the tokenizer has neither {wanted}: no BERT's and no RoBERTa's")


def _tokenise(
    texts: list[str],
    tokenizer: Tokenizer,
    progress: Callable[[Iterable], Iterable],
    limit: int | None = None,
    blanks: bool = False,
) -> tuple[Ragged, Ragged]:
    """Texts -> rows of token ids, rows of character offsets; the first `limit` tokens of each."""
    # array.array grows in place, where lists of numpy arrays would hold everything twice when joined
    ids, offsets, rows = array("i"), array("i"), array("q", [0])
    for at in progress(range(0, len(texts), CHUNK)):
        try:
            encodings = tokenizer.encode_batch(texts[at : at + CHUNK], add_special_tokens=False)
        except Exception as error:  # tokenizers raises bare Exception
            raise DataError(f"the tokenizer fails on this text ({error}): its tokenizer.json may be damaged") from error
        for text, encoding in zip(texts[at : at + CHUNK], encodings, strict=True):
            ids.extend(encoding.ids[:limit])
            spans = encoding.offsets[:limit]
            offsets.extend(chain.from_iterable(without_blanks(text, spans) if blanks else spans))
            rows.append(len(ids))
    return Ragged(np.asarray(ids), np.asarray(rows)), Ragged(np.asarray(offsets).reshape(-1, 2), np.asarray(rows))


def without_blanks(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets of which none begins with white space: an answer read back would begin with a blank."""
    trimmed = []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        trimmed.append((start, end))
    return trimmed


def _answer_tokens(examples: Sequence[Example], offsets: Ragged, context: np.ndarray) -> np.ndarray:
    """(E, 2) first and last context token of each example's first answer; (-1, -1) where there is none."""
    spans = np.full((len(examples), 2), -1, np.int64)
    for i, example in enumerate(examples):
        if example.answers:
            answer = example.answers[0]
            span = char_to_token_span(offsets[context[i]], answer.start, answer.end)
            spans[i] = (-1, -1) if span is None else span
    return spans


def cut(
    question_lengths: np.ndarray, context_lengths: np.ndarray, length: int, overlap: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(E,), (E,) -> example, begin, end, each (W,): every context token in a window, at least one each.

    length: tokens for question and context together.
    """
    room = length - question_lengths
    step = room - overlap
    count = np.maximum(1, -(-(context_lengths - overlap) // step))
    example = np.repeat(np.arange(len(count)), count)
    nth = np.arange(len(example)) - np.repeat(np.cumsum(count) - count, count)
    begin = nth * step[example]
    end = np.minimum(begin + room[example], context_lengths[example])
    return example, begin, end


def _labels(answers: np.ndarray, begin: np.ndarray, end: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, ...]:
    """Context tokens (W, 2) -> start and end positions (W,), zero where the window lacks any of them."""
    first, last = answers.T
    whole = (first >= begin) & (last < end) & (first >= 0)
    return np.where(whole, first - begin + shift, 0), np.where(whole, last - begin + shift, 0)
