"""Windows -> batches: which windows go together, and the tensors that the model takes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from squad.windows import Windows

# Batches are padded to a multiple of 16 tokens: a CPU multiplies these up to a tenth faster, for 3% more padding.
MULTIPLE = 16


class Batch(NamedTuple):
    """B windows, padded to T tokens."""

    input_ids: Tensor  # (B, T)
    token_type_ids: Tensor  # (B, T) 0 question, 1 context
    attention_mask: Tensor  # (B, T) 1 token, 0 padding
    span_mask: Tensor  # (B, T) bool, True where an answer may start or end: [CLS] and the context
    start_positions: Tensor  # (B,)
    end_positions: Tensor  # (B,)

    def __str__(self) -> str:
        B, T = self.input_ids.shape
        return f"a batch of {B} windows of {T} tokens"

    @property
    def labels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Start, end and span_mask, in the order in which `span_loss` takes them."""
        return self.start_positions, self.end_positions, self.span_mask

    def to(self, device: torch.device | str) -> "Batch":
        """Copy to a device. Copies to a GPU come from pinned memory, so that the CPU does not wait for them."""
        device = torch.device(device)
        # Only on this way: a copy from a GPU that does not wait could be read before it has arrived.
        to_gpu = device.type == "cuda" and self.input_ids.device.type == "cpu"
        tensors = (tensor.pin_memory() for tensor in self) if to_gpu else self
        return Batch(*(tensor.to(device, non_blocking=to_gpu) for tensor in tensors))


def collate(windows: Windows, window_ids: np.ndarray, multiple: int = MULTIPLE) -> Batch:
    """These windows, padded to `padded_length` of the longest."""
    context_at = windows.context_positions(window_ids)
    lengths = context_at + windows.end[window_ids] - windows.begin[window_ids] + 1
    B, T = len(window_ids), padded_length(int(lengths.max()), windows.max_length, multiple)
    input_ids = np.full((B, T), windows.pad_id, np.int64)
    for row, w in enumerate(window_ids):
        e, at, length = windows.example_index[w], context_at[row], lengths[row]
        context = windows.contexts[windows.context_index[e]]
        input_ids[row, 0] = windows.cls_id
        input_ids[row, 1 : at - windows.separators] = windows.questions[e]
        input_ids[row, at - windows.separators : at] = windows.sep_id
        input_ids[row, at : length - 1] = context[windows.begin[w] : windows.end[w]]
        input_ids[row, length - 1] = windows.sep_id
    position = np.arange(T)[None]  # (1, T)
    real = position < lengths[:, None]
    second = (position >= context_at[:, None]) & real  # the context and the [SEP] after it
    span = (second & (position < lengths[:, None] - 1)) | (position == 0)
    labels = windows.start_positions[window_ids], windows.end_positions[window_ids]
    arrays = input_ids, second.astype(np.int64), real.astype(np.int64), span, *labels
    return Batch(*(torch.from_numpy(array) for array in arrays))


def padded_length(longest: int, max_length: int, multiple: int = MULTIPLE) -> int:
    """T of a batch: the next multiple, but at most `max_length`, beyond which the model may have no positions."""
    return max(longest, min(-(-longest // multiple) * multiple, max_length))


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int, pool: int = 64) -> list[np.ndarray]:
    """Every window once, in batches of like length, in an order drawn from (seed, epoch).

    All windows are shuffled and cut into pools of `pool` batches; each pool is sorted by length and cut into batches,
    and the batches are shuffled: random enough to train on, alike enough to need little padding. Only the longest batch
    always comes first, so that a lack of memory shows at once.

    Args: lengths (W,), tokens in each window.
    Returns arrays of window numbers, each of `batch_size` but for the last of the last pool.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches = []
    for at in range(0, len(order), pool * batch_size):
        chosen = order[at : at + pool * batch_size]
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
        batches += [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    batches = [batches[i] for i in rng.permutation(len(batches))]
    longest = max(range(len(batches)), key=lambda i: lengths[batches[i][-1]])
    return [batches[longest], *batches[:longest], *batches[longest + 1 :]]


def forward_passes(
    lengths: np.ndarray, window_ids: np.ndarray, batch_size: int, tokens: int, rank: int = 0, size: int = 1
) -> list[tuple[np.ndarray, float]]:
    """The forward passes of one training step: window numbers, and their share of the step's windows.

    A process takes its shard of the windows and cuts it into passes of like length, longest first, as few as hold at
    most `batch_size` windows and about `tokens` padded tokens each. A mean loss times its share, summed over all passes
    of all processes, is the mean loss of the step. A process without windows takes the first one with share 0, since
    all processes must meet in the backward pass.

    Args: lengths (W,), tokens in every window; window_ids, those of the step; rank and size of the processes.
    """
    mine = window_ids[shard_by_tokens(lengths[window_ids], size)[rank]]
    if not len(mine):
        return [(window_ids[:1], 0.0)]
    mine = mine[np.argsort(-lengths[mine], kind="stable")]
    count = max(-(-len(mine) // batch_size), -(-len(mine) * int(lengths[mine].max()) // tokens))
    return [(ids, len(ids) / len(window_ids)) for ids in np.array_split(mine, min(count, len(mine)))]


def tokens_per_pass(device: torch.device) -> int:
    """Padded tokens in a forward pass of training: limits its memory; on a CPU more are not faster (docs/log.md)."""
    return 4096 if device.type == "cpu" else 32_768


def evaluation_batches(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Every window once, longest first: least padding, and a lack of memory shows in the first batch.

    Args: tokens: a batch has at most this many, each window counted as long as its longest; but at least one window.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, at = [], 0
    while at < len(order):
        size = max(1, tokens // int(lengths[order[at]]))
        batches.append(order[at : at + size])
        at += size
    return batches


def shard_by_tokens(lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Divide windows among `count` processes: longest first, each to the one with the fewest tokens so far.

    The shards then differ by at most the longest window. Args: lengths (W,), tokens in each window.
    Returns `count` arrays of positions in `lengths`, increasing; some are empty where there are fewer windows.
    """
    tokens, shards = [0] * count, [[] for _ in range(count)]
    for i in np.argsort(-lengths, kind="stable").tolist():
        least = tokens.index(min(tokens))
        shards[least].append(i)
        tokens[least] += int(lengths[i])
    return [np.array(sorted(shard), np.int64) for shard in shards]


def padding_waste(windows: Windows, steps: list[np.ndarray], batch_size: int, tokens: int) -> float:
    """The share of all positions that is padding, 0 to 1, in the forward passes of these training steps.

    Args: steps: window numbers, each window in one of them; batch_size, tokens: as for `forward_passes`.
    """
    lengths = windows.lengths
    passes = [ids for step in steps for ids, _ in forward_passes(lengths, step, batch_size, tokens)]
    positions = sum(padded_length(int(lengths[ids].max()), windows.max_length) * len(ids) for ids in passes)
    return 1 - int(lengths.sum()) / positions
