"""Examples -> prompts for a model that writes its answers: a context, a question, and the place for the answer.

    <context>\n\nQuestion: <question>\nAnswer: <answer><eos>

The answer and its eos, the token that ends a text, are all that the loss sees. What is too long loses context, never
question or answer.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from squad.align import char_to_token_span
from squad.examples import DataError, Example
from squad.windowing import check_tokenizer

QUESTION = "\n\nQuestion: {}\nAnswer:"
IGNORED = -100  # a label that the loss leaves out; the number is PyTorch's custom


@dataclass(frozen=True)
class Prompts:
    """E prompts as token ids, with their answers when they are for training."""

    ids: list[np.ndarray]
    answer_tokens: np.ndarray  # (E,) how many at the end of each are the answer and its eos; 0 without answers

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(E,) tokens of each."""
        return np.array([len(ids) for ids in self.ids])

    def fingerprint(self) -> str:
        """A sha256 of all tokens and of which of them are answers."""
        digest = hashlib.sha256(self.lengths.tobytes() + self.answer_tokens.tobytes())
        for ids in self.ids:
            digest.update(ids.tobytes())
        return digest.hexdigest()


class PromptBatch(NamedTuple):
    """B prompts, padded to T tokens."""

    input_ids: Tensor  # (B, T)
    attention_mask: Tensor  # (B, T) 1 token, 0 padding
    labels: Tensor  # (B, T) the token itself where it belongs to an answer, IGNORED elsewhere


def make_prompts(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    max_length: int,
    eos_id: int,
    answer_room: int = 0,
    silence: str = "",
) -> Prompts:
    """Prompts of at most `max_length` tokens.

    Args:
        answer_room: for generation, how many tokens to leave for the answer; 0 makes prompts for training, which end in
            the first gold answer and eos.
        silence: what stands for "the text does not say" in training; "" is eos at once.
    Raises DataError when a question, with its answer or the room for it, leaves no room for a token of context.
    """
    check_tokenizer(tokenizer)
    contexts = {example.context: None for example in examples}
    encoded = tokenizer.encode_batch(list(contexts), add_special_tokens=False)
    contexts = dict(zip(contexts, encoded, strict=True))
    questions = _ids(tokenizer, [QUESTION.format(example.question) for example in examples])
    golds = [example.answers[0].text if example.answers else silence for example in examples]
    answers = [[]] * len(examples) if answer_room else _ids(tokenizer, [f" {gold}" if gold else "" for gold in golds])
    rows, lengths = [], []
    for example, question, gold in zip(examples, questions, answers, strict=True):
        answer = [] if answer_room else [*gold, eos_id]
        needed = max(len(answer), answer_room)
        room = max_length - len(question) - needed
        if room < 1:
            raise DataError(
                f"question {example.id!r} has {len(question)} tokens with its frame, and {needed} more are needed for "
                f"the answer: no context fits into {max_length}, give a larger max length"
            )
        context = contexts[example.context]
        span = None if answer_room or not example.answers else _answer_span(context, example)
        begin, end = kept_context(len(context.ids), room, span)
        rows.append(np.array([*context.ids[begin:end], *question, *answer], np.int64))
        lengths.append(len(answer))
    return Prompts(rows, np.array(lengths, np.int64))


def text_chunks(examples: Sequence[Example], tokenizer: Tokenizer, max_length: int, eos_id: int) -> Prompts:
    """Each context once, an eos after it, in pieces of `max_length` tokens, the last one shorter.

    To learn writing, every token counts as an answer's, but for the first of a piece, which nothing foretells.
    """
    contexts = list(dict.fromkeys(example.context for example in examples))
    stream = np.array([id for ids in _ids(tokenizer, contexts) for id in (*ids, eos_id)], np.int64)
    pieces = [stream[at : at + max_length] for at in range(0, len(stream) - 1, max_length)]
    return Prompts(pieces, np.array([len(piece) - 1 for piece in pieces], np.int64))


def kept_context(tokens: int, room: int, answer: tuple[int, int] | None) -> tuple[int, int]:
    """Which context tokens to keep, as (begin, end), when there is room for `room` of `tokens`.

    Args: answer: its first and last token. They stay: tokens are cut from the end that is further from the answer, from
        the other one only when those are used up. None, when there is no answer or it must not be known: cut at the
        end. An answer longer than the room keeps its first tokens.
    """
    surplus = tokens - room
    if surplus <= 0:
        return 0, tokens
    if answer is None:
        return 0, room
    before, after = answer[0], tokens - 1 - answer[1]
    left = min(before, surplus if before > after else max(0, surplus - after))
    return left, left + room


def collate_prompts(prompts: Prompts, rows: Sequence[int], pad_id: int, left: bool = False) -> PromptBatch:
    """These prompts, padded to the longest: on the right for training, on the left for generation."""
    T = max(len(prompts.ids[row]) for row in rows)
    input_ids, mask = np.full((len(rows), T), pad_id, np.int64), np.zeros((len(rows), T), np.int64)
    labels = np.full((len(rows), T), IGNORED, np.int64)
    for i, row in enumerate(rows):
        ids, answer = prompts.ids[row], int(prompts.answer_tokens[row])
        at = T - len(ids) if left else 0
        end = at + len(ids)
        input_ids[i, at:end], mask[i, at:end] = ids, 1
        labels[i, end - answer : end] = ids[len(ids) - answer :]
    return PromptBatch(*(torch.from_numpy(array) for array in (input_ids, mask, labels)))


def answer_loss(x: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean cross entropy of the answers' tokens, each predicted from those before it; a scalar.

    Args:
        x (B, T, H): the model's last hidden states.
        labels (B, T): as `collate_prompts` gives them. By position and not by token: where padding is eos too, the eos
            that ends an answer still counts.
        head: hidden states (n, H) -> logits (n, V). It is asked only for the n positions whose next token counts: for
            all B T of them the logits would be most of a step's memory and a third of its work.
    """
    counts = labels[:, 1:] != IGNORED
    return F.cross_entropy(head(x[:, :-1][counts]).float(), labels[:, 1:][counts])


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def _answer_span(context, example: Example) -> tuple[int, int] | None:
    answer = example.answers[0]
    return char_to_token_span(np.array(context.offsets).reshape(-1, 2), answer.start, answer.end)
