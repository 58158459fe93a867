"""BERT for extractive question answering, written out by hand (Devlin et al. 2018, arXiv 1810.04805).

RoBERTa, XLM-R and DistilBERT are the same encoder with other sizes and names; families.py has the table.

Read it top-down: the QA model, the encoder, one layer, attention.

Axes, named once: B batch, T tokens, H hidden size, N attention heads, D = H / N head size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.dropout import dropout, make_dropout
from minirun import fused_attention_pays


class BertForQuestionAnswering(nn.Module):
    """BERT with a linear head that scores every token as start and as end of the answer (section 4.2)."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        head = nn.Linear(config.hidden_size, 2)
        self.bert = Bert(config)
        self.qa_outputs = head
        init_weights(head, config.initializer_range)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Score each token as the first and as the last of the answer.

        Args: input_ids, token_type_ids (0 question, 1 context), attention_mask (1 token, 0 padding): integers,
            each (B, T), and not in transformers' order, where the mask comes second. Every row needs at least one 1 in
            its mask.
        Returns: start_logits, end_logits, each (B, T), in the head's dtype even under autocast: bfloat16 has
            8 significant bits, too few to compare sums of two logits.
        """
        x = self.bert(input_ids, token_type_ids, attention_mask)
        with torch.autocast(x.device.type, enabled=False):
            logits = self.qa_outputs(x.to(self.qa_outputs.weight.dtype))  # (B, T, 2)
        start_logits, end_logits = logits.unbind(-1)
        return start_logits, end_logits


class Bert(nn.Module):
    """The encoder: embeddings, then `num_hidden_layers` layers. It has no pooler: question answering does not need one.

    A new one has BERT's random initialisation; `load_encoder` fills it from a checkpoint.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        init_weights(self, config.initializer_range)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Three (B, T) integer tensors, as for BertForQuestionAnswering -> the last layer's hidden states (B, T, H)."""
        mask = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T), True for the keys that may be attended to
        x = self.embeddings(input_ids, token_type_ids)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Embeddings(nn.Module):
    """x = dropout(LayerNorm(word + token type + position)); positions are learned, from 0 to T-1 (figure 2).

    RoBERTa counts positions from padding_idx + 1 and has one token type only; DistilBERT has no token types.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.first_position, self.longest = config.first_position, config.longest_sequence
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = make_dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Two (B, T) integer tensors -> (B, T, H). Raises ValueError when T exceeds the number of positions."""
        T = input_ids.size(1)
        if self.longest < T:
            raise ValueError(
                f"a sequence of {T} tokens, but this model has {self.longest} positions: "
                f"use windows of at most {self.longest} tokens"
            )
        x = self.word(input_ids)
        if self.token_type is not None:
            x = x + self.token_type(token_type_ids.clamp(max=self.token_type.num_embeddings - 1))
        x = x + self.position.weight[self.first_position :][:T]
        return self.dropout(self.norm(x))


class Layer(nn.Module):
    """One encoder layer: self-attention, then a two-layer MLP; each is added to its input and the sum normalised.

    The six linear layers and two norms are direct children, so that each has a short name.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        H, I = config.hidden_size, config.intermediate_size
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(H, H)
        self.key = nn.Linear(H, H)
        self.value = nn.Linear(H, H)
        self.attention_output = nn.Linear(H, H)
        self.attention_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(H, I)
        self.activation = F.gelu if config.hidden_act == "gelu" else F.relu
        self.output = nn.Linear(I, H)
        self.output_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.dropout = make_dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, H), mask (B, 1, 1, T) bool -> (B, T, H)."""
        q, k, v = (self._split_heads(project(x)) for project in (self.query, self.key, self.value))
        # F.scaled_dot_product_attention applies dropout even in eval mode, so the rate must be 0 then.
        a = attention(q, k, v, mask, self.attention_dropout if self.training else 0.0)
        a = a.transpose(1, 2).flatten(2)  # (B, N, T, D) -> (B, T, H)
        x = self.attention_norm(x + self.dropout(self.attention_output(a)))
        h = self.output(self.activation(self.intermediate(x)))
        return self.output_norm(x + self.dropout(h))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, T, H) -> (B, N, T, D)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, p: float) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, each query over the keys that `mask` allows (Vaswani et al. 2017, eq. 1).

    Args: q, k, v (B, N, T, D); mask (B, 1, 1, T) bool; p, the share of attention weights that dropout sets to zero.
    Returns: (B, N, T, D).

    Two ways to compute the same; which one is faster depends on the processor and on whether gradients are needed.
    """
    if fused_attention_pays(q, p):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
    return eager_attention(q, k, v, mask, p)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, p: float) -> Tensor:
    """`attention`, one operation per line.

    (q k^T / sqrt(D)).masked_fill(~mask, -inf).softmax(-1) @ v with fewer passes over the T x T scores.
    """
    B, N, _, D = q.shape
    # Masked scores become -inf: -1e9 would overflow in float16. The product adds this bias and scales in one pass.
    bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)  # (B, 1, 1, T)
    bias = bias.expand(B, N, 1, -1).flatten(0, 1)  # (B N, 1, T)
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))  # (B, N, T, D) -> (B N, T, D)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=1 / math.sqrt(D))  # (B N, T, T)
    weights = scores.softmax(-1)
    a = (dropout(weights, p) if p else weights) @ v
    return a.unflatten(0, (B, N))


def init_weights(module: nn.Module, std: float) -> None:
    """BERT's initialisation of all linear layers and embeddings: weights from normal(0, std), biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
