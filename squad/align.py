"""Between character spans of a text and token spans of its tokenisation.

`offsets` is an (n, 2) integer array: token i covers the characters from offsets[i, 0] up to, but not including,
offsets[i, 1]. Tokens are in order, so neither column ever decreases.

    text     D  e  n  v  e  r     B  r  o  n  c  o  s
    index    0  1  2  3  4  5  6  7  8  9 10 11 12 13
    tokens  [   denver       ]   [  bro  ][  ##ncos  ]
    offsets  (0, 6)               (7, 10)  (10, 14)

    char_to_token_span(offsets, 7, 14) -> (1, 2)      token_to_char_span(offsets, 1, 2) -> (7, 14)
"""

import numpy as np


def char_to_token_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """The first and last token that share a character with text[start:end], or None when no token does."""
    first = int(np.searchsorted(offsets[:, 1], start, side="right"))  # first token that ends after start
    last = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1  # last token that starts before end
    return (first, last) if first <= last else None


def token_to_char_span(offsets: np.ndarray, first: int, last: int) -> tuple[int, int]:
    """The characters from the start of token `first` to the end of token `last`, as (start, end)."""
    return int(offsets[first, 0]), int(offsets[last, 1])
