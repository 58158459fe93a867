"""Windows: `[CLS] question [SEP] a piece of the context [SEP]`, at most `max_length` tokens each.

RoBERTa and XLM-R write `<s> question </s></s> a piece of the context </s>`. windowing.py makes them.

Everything lies in flat arrays (Ragged). A context is tokenised and stored once, however many questions and windows it
has.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one flat array; row i is values[row_splits[i]:row_splits[i + 1]]."""

    values: np.ndarray
    row_splits: np.ndarray

    def __len__(self) -> int:
        return len(self.row_splits) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.values[self.row_splits[i] : self.row_splits[i + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.row_splits)


@dataclass(frozen=True)
class Windows:
    """The windows of a list of examples. E examples, C distinct contexts, W windows.

    Positions count from [CLS] = 0. A window that does not hold the whole answer is labelled (0, 0): as far as it shows,
    there is none.
    """

    questions: Ragged  # E rows of token ids
    contexts: Ragged  # C rows of token ids
    offsets: Ragged  # C rows of (start, end) characters, one pair per token
    context_index: np.ndarray  # (E,) the context of each example
    example_index: np.ndarray  # (W,) the example of each window, never decreasing
    begin: np.ndarray  # (W,) first context token
    end: np.ndarray  # (W,) one past the last
    start_positions: np.ndarray  # (W,) label: first token of the answer, 0 for no answer
    end_positions: np.ndarray  # (W,) label: last token of the answer, 0 for no answer
    max_length: int  # the limit, in tokens, that they were cut to
    cls_id: int
    sep_id: int
    pad_id: int
    separators: int  # between question and context; one more ends the window

    def __len__(self) -> int:
        return len(self.example_index)

    @cached_property
    def lengths(self) -> np.ndarray:
        """(W,) tokens in each window, special ones included."""
        return self.questions.lengths[self.example_index] + self.end - self.begin + self.separators + 2

    def context_positions(self, window_ids: np.ndarray) -> np.ndarray:
        """The position at which the context begins in each of these windows: after [CLS], question and separators."""
        question = self.questions.lengths[self.example_index[window_ids]]
        return 1 + question + self.separators

    def char_spans(self, window_ids: np.ndarray, start_index: np.ndarray, end_index: np.ndarray) -> np.ndarray:
        """Spans of positions, first to last, in windows -> (n, 2) character spans of their contexts.

        Args: three integer arrays of n; the positions must lie in the window's context.
        """
        # shift + a position of the window is that token's row in the flat offsets
        row = self.offsets.row_splits[self.context_index[self.example_index[window_ids]]]
        shift = row + self.begin[window_ids] - self.context_positions(window_ids)
        offsets = self.offsets.values
        return np.stack([offsets[shift + start_index, 0], offsets[shift + end_index, 1]], axis=-1)
