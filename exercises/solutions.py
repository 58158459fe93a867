"""The solutions: this repository's own code, in the shape of each contract. Reading this spoils the exercises."""

import numpy as np
from torch import Tensor, nn

import lora
import minibert
import squad
from minibert.model import Layer, eager_attention
from squad.align import char_to_token_span
from squad.metrics import exact_match, f1_score
from squad.windowing import cut

span_loss = squad.span_loss

__all__ = [
    "LoRALinear", "attention", "best_span", "best_threshold", "char_to_token_span", "checkpoint_names", "encoder_layer",
    "scores", "span_loss", "windows",
]  # fmt: skip


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return eager_attention(q, k, v, mask, p=0.0)


def encoder_layer(layer: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    return Layer.forward(layer, x, mask)


class LoRALinear(lora.LoRALinear):
    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__(base.requires_grad_(False), rank, alpha)  # in the library add_lora() freezes the whole model


def checkpoint_names(num_layers: int) -> dict[str, str]:
    sizes = {"vocab_size": 9, "hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 8}
    config = minibert.BertConfig(num_hidden_layers=num_layers, max_position_embeddings=7, **sizes)
    return minibert.checkpoint_names(config)


def windows(question: int, context: int, length: int, overlap: int) -> list[tuple[int, int]]:
    _, begin, end = cut(np.array([question]), np.array([context]), length, overlap)
    return list(zip(begin.tolist(), end.tolist(), strict=True))


def best_span(start: Tensor, end: Tensor, mask: Tensor, most: int) -> tuple[float, int, int]:
    score, first, last, _ = squad.best_spans(start[None], end[None], mask[None], most, n_best=1)
    return float(score[0, 0]), int(first[0, 0]), int(last[0, 0])


def best_threshold(odds: np.ndarray, f1: np.ndarray, has_answer: np.ndarray) -> float:
    gold = (squad.Answer("x", 0),)
    examples = [squad.Example(str(i), "?", "x", gold * bool(has), not has, "") for i, has in enumerate(has_answer)]
    return squad.tune_threshold(examples, f1, {str(i): float(value) for i, value in enumerate(odds)})[0]


def scores(gold: str, predicted: str) -> tuple[float, float]:
    return exact_match(gold, predicted), f1_score(gold, predicted)
