"""Logits -> the next tokens: greedy or drawn, one row or many, with the keys and values of earlier tokens kept."""

import torch
from torch import Tensor

from minigpt.cache import Cache
from minigpt.model import GPT2LMHead


@torch.inference_mode()
def generate(
    model: GPT2LMHead,
    input_ids: Tensor,
    attention_mask: Tensor,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    eos_id: int | None = None,
    pad_id: int | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> Tensor:
    """The tokens that the model writes after each row, (B, n), n at most max_new_tokens.

    The caller puts the model in eval mode.

    Args:
        input_ids, attention_mask (B, T): rows with their padding on the left, so that all continue at the same place.
        temperature: 0 takes the most probable token every time (greedy; top_k and top_p then change nothing); above 0
            tokens are drawn from softmax(logits / temperature).
        top_k, top_p: draw only from the k most probable tokens, or the fewest that sum to probability p; 0 and 1.0
            draw from all. As in transformers temperature comes first, then top_k, then top_p.
        eos_id: a row that writes it is finished, and goes on with pad_id until the others are. None: the config's; -1,
            which is no token: all rows go on to the end. pad_id: None: the same as eos_id.
        generator: of the random numbers, on the model's device.
        use_cache: False computes everything anew for each token, as slow as it is simple: an oracle for the cache.
    Writes fewer tokens where the model's positions end: the last one needs none, as nothing is written after it. Raises
    ValueError for settings out of range, for rows that are longer than the positions, and for one that ends in padding.
    """
    check_settings(temperature, top_k, top_p)
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, expected at least 0")
    if not attention_mask[:, -1].all():
        raise ValueError("a row ends in padding, expected it on the left: collate_prompts(..., left=True)")
    eos_id = model.config.eos_token_id if eos_id is None else eos_id
    pad_id = eos_id if pad_id is None else pad_id
    T, most = input_ids.size(1), model.config.n_positions
    cache = Cache(model.config, most=min(T + max_new_tokens, most)) if use_cache else None
    finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    ids, mask, written = input_ids, attention_mask, []
    for _ in range(min(max_new_tokens, max(1, most - T + 1))):  # at least once, for the model to refuse a row too long
        x = model.transformer(ids, mask, cache)[:, -1]  # (B, H): only the last token's logits are needed
        logits = model.lm_head(x).float()  # (B, V)
        token = next_token(logits, temperature, top_k, top_p, generator).masked_fill(finished, pad_id)  # (B,)
        written.append(token)
        finished |= token == eos_id
        if finished.all():
            break
        ids = token[:, None] if use_cache else torch.cat([ids, token[:, None]], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return torch.stack(written, dim=1) if written else input_ids[:, :0]


def next_token(
    logits: Tensor, temperature: float, top_k: int, top_p: float, generator: torch.Generator | None = None
) -> Tensor:
    """Logits (B, V) -> token ids (B,); see `generate`."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = keep_top_p(keep_top_k(with_temperature(logits, temperature), top_k), top_p)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def with_temperature(logits: Tensor, t: float) -> Tensor:
    """Logits z (..., V) -> z / t: then p_i = exp(z_i / t) / sum_j exp(z_j / t) (Ackley et al. 1985).

    Below 1 the probable tokens become more so, above 1 all come nearer to one another.
    """
    return logits / t


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Logits z (..., V) -> z_i where z_i >= the k-th largest of z, else -inf (Fan et al. 2018, section 5.4).

    Ties with the k-th stay; k = 0 keeps all.
    """
    if k == 0 or k >= logits.size(-1):
        return logits
    smallest = logits.topk(k).values[..., -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Logits z (..., V) -> z_i where sum of p_j over p_j > p_i is < p, else -inf (Holtzman et al. 2020, section 3.1).

    With p_i = softmax(z)_i these are the nucleus: the fewest of the most probable tokens that have probability p
    together. The token that reaches p stays; of tokens as probable as it, those of lower ids come first.
    """
    if p >= 1:
        return logits
    values, order = logits.sort(descending=True, stable=True)
    probability = values.softmax(-1)
    before = probability.cumsum(-1) - probability
    outside = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= p)
    return logits.masked_fill(outside, -torch.inf)


def check_settings(temperature: float, top_k: int, top_p: float) -> None:
    """Raise ValueError when a setting of `generate` is out of range."""
    if temperature != 0 and not 1e-3 <= temperature < float("inf"):  # logits divided by less would overflow
        raise ValueError(f"temperature is {temperature}, expected 0 (greedy), or a number of at least 0.001")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}, expected at least 0 (0: all tokens)")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}, expected above 0 and at most 1 (1: all tokens)")
