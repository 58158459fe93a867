"""The ten functions to write. Each docstring is the contract; README.md has a hint for each.

python -m exercises 3        judges step 3 and says what differs
"""

import math  # noqa: F401 - what the solutions use is imported already

import numpy as np
import torch  # noqa: F401
import torch.nn.functional as F  # noqa: F401
from torch import Tensor, nn


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """1. softmax(q k^T / sqrt(D)) v, each query over the keys that the mask allows.

    q, k, v (B, N, T, D); mask (B, 1, 1, T) bool, True for keys that may be attended to -> (B, N, T, D). All other keys
    get the weight 0 exactly; each row has at least one True.
    """
    raise NotImplementedError


def encoder_layer(layer: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """2. One layer of BERT: attention and MLP, each added to its input and the sum normalised.

    layer has num_heads, the linear layers query, key, value, attention_output, intermediate and output, and the norms
    attention_norm and output_norm; the activation is F.gelu, there is no dropout. x (B, T, H), mask as in step 1 ->
    (B, T, H).
    """
    raise NotImplementedError


def checkpoint_names(num_layers: int) -> dict[str, str]:
    """3. The name of each part of our model -> its name in a BERT checkpoint, without `.weight` and `.bias`.

    For example `bert.embeddings.word` -> `bert.embeddings.word_embeddings`, `qa_outputs` -> `qa_outputs`, and
    `bert.layers.0.query` -> `bert.encoder.layer.0.attention.self.query`; for layers 0 to num_layers - 1.
    """
    raise NotImplementedError


class LoRALinear(nn.Module):
    """4. h = W x + b + s B A x with s = alpha / rank; lora_A (rank, in) random, lora_B (out, rank) zero at the start.

    base, lora_A and lora_B are its attributes, the last two as nn.Parameter; base.weight (out, in) and base.bias, which
    may be None, do not train. merge() adds s B A to base.weight, after which forward is the base alone and costs no
    more; unmerge() restores W to the last bit. Merging twice is merging once.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def merge(self) -> None:
        raise NotImplementedError

    def unmerge(self) -> None:
        raise NotImplementedError


def char_to_token_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """5. The first and last token that share a character with text[start:end]; None when no token does.

    offsets (n, 2): token i covers the characters from offsets[i, 0] up to, not including, offsets[i, 1].
    """
    raise NotImplementedError


def windows(question: int, context: int, length: int, overlap: int) -> list[tuple[int, int]]:
    """6. The pieces (begin, end) of `context` tokens that go into windows beside `question` tokens.

    A piece holds room = length - question tokens and begins room - overlap after the one before it. The last one is the
    first that reaches the end of the context. There is at least one.
    """
    raise NotImplementedError


def span_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor, mask: Tensor) -> Tensor:
    """7. The mean of two cross entropies, of the answer's start and of its end; a scalar.

    Logits and mask (bool, where an answer may be; position 0 always) (B, T); start, end (B,), 0 for "no answer".
    """
    raise NotImplementedError


def best_span(start: Tensor, end: Tensor, mask: Tensor, most: int) -> tuple[float, int, int]:
    """8. The span (i, j) with the highest start[i] + end[j], of at most `most` tokens, as (score, i, j).

    All (T,). Both ends lie where the mask (bool) is True, and not at position 0, which stands for "no answer".
    """
    raise NotImplementedError


def best_threshold(odds: np.ndarray, f1: np.ndarray, has_answer: np.ndarray) -> float:
    """9. A threshold with the highest mean F1 when "" is answered above it; one sort is enough.

    odds (E,): null score - best span's score; f1 (E,): of the best spans; has_answer (E,) bool. A question without an
    answer scores 1 for "" and 0 for a span, one with an answer 0 for "" and its f1 for the span.
    """
    raise NotImplementedError


def scores(gold: str, predicted: str) -> tuple[float, float]:
    """10. EM and F1 of a predicted text, as SQuAD's official script has them, each 0 to 1.

    Both texts are made lower-case, rid of punctuation and of the words a, an, the, and split at white space. EM:
    whether the words are equal. F1: the harmonic mean of precision and recall, counting each word as often as it is in
    both; if either has no words, whether both have none.
    """
    raise NotImplementedError
