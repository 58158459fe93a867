"""Windows -> batches: which windows go together, and the tensors that the model takes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from squad.windows import Windows

# A CPU multiplies rows of a whole number of vectors up to a tenth faster (docs/log.md); costs 3% padding.
MULTIPLE = 16


class Batch(NamedTuple):
    """B windows padded to T tokens, `padded_length` of the longest. `windows` says which they are."""

    input_ids: Tensor  # (B, T)
    token_type_ids: Tensor  # (B, T) 0 question, 1 context
    attention_mask: Tensor  # (B, T) 1 token, 0 padding
    span_mask: Tensor  # (B, T) bool, True where an answer may start or end: [CLS] and the context
    start_positions: Tensor  # (B,)
    end_positions: Tensor  # (B,)
    windows: Tensor  # (B,)

    def to(self, device: torch.device) -> "Batch":
        """Copies to a GPU go out of pinned memory, so that nobody waits for them."""
        pinned = (tensor.pin_memory() for tensor in self) if device.type == "cuda" else self
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in pinned))


def collate(windows: Windows, rows: np.ndarray) -> Batch:
    """The windows numbered `rows`, padded to `padded_length` of the longest."""
    context_at = windows.context_positions(rows)
    lengths = context_at + windows.end[rows] - windows.begin[rows] + 1
    B, T = len(rows), padded_length(int(lengths.max()), windows.max_length)
    input_ids = np.full((B, T), windows.pad_id, np.int64)
    for row, w in enumerate(rows):
        e = windows.example[w]
        at = context_at[row]
        input_ids[row, 0] = windows.cls_id
        input_ids[row, 1 : at - windows.between] = windows.questions[e]
        input_ids[row, at - windows.between : at] = input_ids[row, lengths[row] - 1] = windows.sep_id
        input_ids[row, at : lengths[row] - 1] = windows.contexts[windows.context[e]][windows.begin[w] : windows.end[w]]
    position = np.arange(T)[None]
    real = position < lengths[:, None]
    second = (position >= context_at[:, None]) & real  # the context and the [SEP] that closes it
    span = (second & (position < lengths[:, None] - 1)) | (position == 0)
    arrays = input_ids, second.astype(np.int64), real.astype(np.int64), span
    labels = windows.start_positions[rows], windows.end_positions[rows], np.asarray(rows, np.int64)
    return Batch(*(torch.from_numpy(array) for array in (*arrays, *labels)))


def padded_length(longest: int, max_length: int) -> int:
    """T of a batch: the next multiple of MULTIPLE, but never beyond `max_length`, which the model may not take."""
    return max(longest, min(-(-longest // MULTIPLE) * MULTIPLE, max_length))


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int, pool: int = 64) -> list[np.ndarray]:
    """Every window once, in batches of like length, in an order drawn from (seed, epoch).

    All windows are shuffled, cut into pools of `pool` batches, sorted by length within a pool and cut into
    batches, which are then shuffled: random enough to train on, alike enough to need little padding. Only the
    longest batch always comes first: too little memory shows at once, and what is taken is kept.

    Args: lengths (W,), tokens in each window.
    Returns arrays of window numbers, each of `batch_size` but the last of the last pool.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches = []
    for at in range(0, len(order), pool * batch_size):
        rows = order[at : at + pool * batch_size]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    batches = [batches[i] for i in rng.permutation(len(batches))]
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i][-1]])
    return [batches[longest], *batches[:longest], *batches[longest + 1 :]]


def forward_passes(lengths: np.ndarray, batch_size: int, tokens: int) -> list[np.ndarray]:
    """Cut the windows of one step into forward passes, longest first, of like length and equal in number.

    As few as hold at most `batch_size` windows each and, padded, about at most `tokens` tokens.
    Args: lengths (W,), tokens in each window, W at least 1. Returns arrays of positions in `lengths`.
    """
    order = np.argsort(-lengths, kind="stable")
    count = max(-(-len(order) // batch_size), -(-len(order) * int(lengths.max()) // tokens))
    return np.array_split(order, min(count, len(order)))


def evaluation_batches(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Every window once, longest first: least padding, and too little memory shows in the first batch.

    Args: tokens: a batch has at most this many, counting each window as long as its longest; but one window at least.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, at = [], 0
    while at < len(order):
        size = max(1, tokens // int(lengths[order[at]]))
        batches.append(order[at : at + size])
        at += size
    return batches


def equal_shares(lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Deal windows to `count` processes: each once, longest first, always to the one with the fewest tokens so far.

    The busiest gets at most the longest window's tokens more than the idlest. Args: lengths (W,), tokens in each.
    Returns `count` arrays of positions in `lengths`, increasing; some are empty where there are fewer windows.
    """
    tokens, shares = [0] * count, [[] for _ in range(count)]
    for i in np.argsort(-lengths, kind="stable").tolist():
        least = tokens.index(min(tokens))
        shares[least].append(i)
        tokens[least] += int(lengths[i])
    return [np.array(sorted(share), np.int64) for share in shares]


def padding_waste(windows: Windows, batches: list[np.ndarray]) -> float:
    """The share of all batch positions that is padding, 0 to 1."""
    lengths = windows.lengths
    positions = sum(padded_length(int(lengths[rows].max()), windows.max_length) * len(rows) for rows in batches)
    return 1 - int(lengths.sum()) / positions
