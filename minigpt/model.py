"""GPT-2, a decoder that writes the next token, written out by hand (Radford et al. 2019).

Read it beside minibert/model.py. What differs: each token attends only to itself and to those before it (causal),
a layer normalises its inputs instead of its sums (pre-norm), one matrix computes queries, keys and values, the
activation is an approximation of GELU, the head is the embedding matrix, and keys and values of earlier tokens can be
kept (the cache).

Axes, named once: B batch, T tokens, H hidden size, N attention heads, D = H / N head size, V vocabulary; S tokens that
keys and values exist for: those in the cache and the T new ones.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.cache import Cache, LayerCache
from minigpt.config import GPT2Config
from minirun import fused_attention_pays


class GPT2LMHead(nn.Module):
    """GPT-2 with the head of a language model: logits of the next token, from the embedding matrix itself."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.transformer = GPT2(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False, device="meta")  # takes no memory
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, cache: Cache | None = None) -> Tensor:
        """Score every token of the vocabulary as the next one, at each position.

        Args: input_ids (B, T), the tokens that are new; attention_mask (B, S), 1 token, 0 padding, of the tokens in the
            cache and the new ones; cache: keys and values of the S - T tokens before, which takes up the new ones;
            without it S = T.
        Returns: logits (B, T, V).
        """
        return self.lm_head(self.transformer(input_ids, attention_mask, cache))


class GPT2(nn.Module):
    """The decoder: embeddings, then `n_layer` blocks and a last norm.

    A new one has GPT-2's random initialisation; `load_pretrained` fills it from a checkpoint.
    """

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # tokens
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)  # positions, learned
        self.dropout = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        init_weights(self, config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, cache: Cache | None = None) -> Tensor:
        """As for GPT2LMHead -> hidden states (B, T, H). Raises ValueError for an S beyond positions or cache."""
        T, S = input_ids.size(1), attention_mask.size(1)
        if self.config.n_positions < S:
            raise ValueError(f"a sequence of {S} tokens, but this model has {self.config.n_positions} positions")
        # Positions count tokens only, so that a row means the same with padding on its left and without.
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)[:, S - T :]
        mask = causal_mask(attention_mask, T)
        if cache is not None:
            mask = F.pad(mask, (0, cache.empty_after(T, S)))  # the places in it that are still empty
        x = self.dropout(self.wte(input_ids) + self.wpe(positions))
        for number, block in enumerate(self.h):
            x = block(x, mask, cache and cache.layers[number])
        return self.ln_f(x)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)): norms come first, so gradients pass by the layers undisturbed."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        H, eps = config.n_embd, config.layer_norm_epsilon
        self.ln_1 = nn.LayerNorm(H, eps=eps)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(H, eps=eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Tensor, cache: LayerCache | None) -> Tensor:
        """x (B, T, H), mask (B, 1, T, S) bool, with a cache (B, 1, T, most) -> (B, T, H)."""
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class Attention(nn.Module):
    """Causal self-attention with N heads."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.num_heads, self.attention_dropout = config.n_head, config.attn_pdrop
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # query, key and value in one matrix
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, mask: Tensor, cache: LayerCache | None) -> Tensor:
        """x (B, T, H), mask (B, 1, T, S) bool, with a cache (B, 1, T, most) -> (B, T, H)."""
        qkv = self.c_attn(x).unflatten(-1, (3, self.num_heads, -1))  # (B, T, 3H) -> (B, T, 3, N, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, N, T, D) each
        if cache is not None:
            k, v = cache.append(k, v)  # all places of the cache, as the mask has
        # F.scaled_dot_product_attention applies dropout even in eval mode, so the rate must be 0 then.
        a = attention(q, k, v, mask, self.attention_dropout if self.training else 0.0)
        a = a.transpose(1, 2).flatten(2)  # (B, N, T, D) -> (B, T, H)
        return self.dropout(self.c_proj(a))


class MLP(nn.Module):
    """Two linear layers with the tanh approximation of GELU between them ("gelu_new", Hendrycks and Gimpel 2016)."""

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.intermediate_size)
        self.c_proj = nn.Linear(config.intermediate_size, config.n_embd)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, p: float) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, each query over the keys that `mask` allows (Vaswani et al. 2017, eq. 1).

    Args: q (B, N, T, D); k, v (B, N, S, D); mask (B, 1, T, S) bool; p, the share of weights that dropout sets to zero.
    Returns: (B, N, T, D).

    Two ways to compute the same.
    """
    if fused_attention_pays(q, p):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
    return eager_attention(q, k, v, mask, p)


def eager_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, p: float) -> Tensor:
    """`attention`, one operation per line."""
    scores = q @ k.transpose(2, 3) / math.sqrt(q.size(3))  # (B, N, T, S)
    weights = scores.masked_fill_(~mask, -math.inf).softmax(-1)
    return (F.dropout(weights, p) if p else weights) @ v


def causal_mask(attention_mask: Tensor, T: int) -> Tensor:
    """Which of S tokens each of the last T may attend to: those up to itself that are no padding.

    Padding may attend to itself: a softmax over nothing would be NaN, and NaN spreads.
    Args: attention_mask (B, S). Returns (B, 1, T, S) bool.
    """
    S = attention_mask.size(1)
    own = torch.arange(S - T, S, device=attention_mask.device)[:, None]  # (T, 1)
    key = torch.arange(S, device=attention_mask.device)  # (S,)
    return (((key <= own) & attention_mask.bool()[:, None, :]) | (key == own))[:, None]


def init_weights(model: nn.Module, config: GPT2Config) -> None:
    """GPT-2's initialisation: normal(0, std), biases 0.

    The weights of c_proj, whose output is added to x, have std / sqrt(2 n_layer) instead, so that the sum does not grow
    with the depth (Radford et al. 2019, section 2.3).
    """
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            added = math.sqrt(2 * config.n_layer) if name.endswith("c_proj") else 1.0
            nn.init.normal_(part.weight, std=config.initializer_range / added)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
