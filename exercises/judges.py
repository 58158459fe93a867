"""The judge of each step: raises AssertionError, which says what differs. Each has an oracle of its own."""

import copy
import itertools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import minibert
from minibert.model import Layer

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "tiny"


def is_tensor(found, shape: tuple[int, ...], what: str) -> None:
    assert isinstance(found, torch.Tensor), f"{what}: a {type(found).__name__}, expected a tensor"
    assert found.shape == shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(shape)}"
    hint = "a softmax of nothing but -inf gives that (a mask is True where it allows)"
    assert not found.isnan().any(), f"{what}: NaN, not a number, somewhere; {hint}"


def close(found, expected, what: str) -> None:
    is_tensor(found, expected.shape, what)
    worst = float((found - expected).detach().abs().max())
    assert worst < 1e-4, f"{what}: differs by up to {worst:.3g}"


def attention(yours) -> None:
    """PyTorch's own scaled_dot_product_attention. With the identity as v the weights themselves come back."""
    q, k, v = *torch.randn(2, 2, 3, 7, 7).unbind(0), torch.eye(7).expand(2, 3, 7, 7)
    mask = (torch.arange(7) < torch.tensor([[7], [4]]))[:, None, None, :]
    weights = yours(q, k, v, mask)
    is_tensor(weights, q.shape, "the weights")
    masked = float(weights[~mask.expand_as(weights)].abs().max())
    assert not masked, f"a masked key has the weight {masked:.2g}, expected 0 exactly"
    close(weights.sum(-1), torch.ones(2, 3, 7), "the sum of a query's weights over the keys, expected 1")
    unscaled = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
    assert not torch.allclose(weights, unscaled, atol=1e-4), "the scores are not divided by sqrt(D)"
    q, k, v = torch.randn(3, 2, 3, 7, 5).unbind(0)
    close(yours(q, k, v, torch.ones_like(mask)), F.scaled_dot_product_attention(q, k, v), "without padding")
    close(yours(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "with padding")
    low, high = torch.full((2, 3, 7, 5), -100.0), torch.full((2, 3, 7, 5), 100.0)
    expected = F.scaled_dot_product_attention(low, high, v, attn_mask=mask)
    close(yours(low, high, v, mask), expected, "where every score is -22,361, below any finite number for masked ones")
    try:
        half = yours(q.half(), k.half(), v.half(), mask)
    except RuntimeError as error:
        assert "overflow" not in str(error), "float16 cannot hold the masked score"
        raise
    assert half.isfinite().all(), "in float16: not finite; is the masked score a number that float16 cannot hold?"


def encoder_layer(yours) -> None:
    """PyTorch's nn.TransformerEncoderLayer with the same weights; first with one half of the layer adding nothing."""
    sizes = {"hidden_size": 15, "num_attention_heads": 3, "intermediate_size": 22, "layer_norm_eps": 1e-5}
    config = minibert.BertConfig(vocab_size=9, max_position_embeddings=7, num_hidden_layers=1, **sizes)
    layer = Layer(config.with_dropout(0.0)).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, there = torch.randn(2, 7, 15), torch.arange(7) < torch.tensor([[7], [4]])
    halves = (
        ("output", "the attention half (the MLP's output is zero here)"),
        ("attention_output", "the MLP half (attention's output is zero here)"),
    )
    for silent, what in (*halves, (None, "the whole layer")):
        changed = copy.deepcopy(layer)
        for parameter in changed.get_submodule(silent).parameters() if silent else ():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            found = yours(changed, x, there[:, None, None, :])
            expected = torch_layer(changed)(x, src_key_padding_mask=~there)
        is_tensor(found, x.shape, what)
        close(found[there], expected[there], what)


def torch_layer(layer: Layer) -> nn.TransformerEncoderLayer:
    """PyTorch's own layer with the weights of ours."""
    H, I = layer.output.out_features, layer.output.in_features
    theirs = nn.TransformerEncoderLayer(H, layer.num_heads, I, 0.0, "gelu", batch_first=True).eval()
    state = {"self_attn.out_proj": layer.attention_output, "linear1": layer.intermediate, "linear2": layer.output}
    state |= {"norm1": layer.attention_norm, "norm2": layer.output_norm}
    with torch.no_grad():
        for name, part in state.items():
            theirs.get_submodule(name).load_state_dict(part.state_dict())
        for kind in ("weight", "bias"):
            joined = torch.cat([getattr(part, kind) for part in (layer.query, layer.key, layer.value)])
            getattr(theirs.self_attn, f"in_proj_{kind}").copy_(joined)
    return theirs


def checkpoint_names(yours) -> None:
    """A checkpoint that transformers wrote: under each name has to be the tensor that our part has once loaded."""
    model = minibert.load_pretrained(GOLDEN)
    found = yours(model.config.num_hidden_layers)
    assert isinstance(found, dict), f"a {type(found).__name__}, expected a dictionary"
    parts = {n: p for n, p in model.named_modules() if list(p.parameters(recurse=False))}
    tensors = load_file(GOLDEN / "model.safetensors")
    theirs = {key.rpartition(".")[0] for key in tensors if "pooler" not in key}
    sides = ("our names", set(found), set(parts)), ("the checkpoint's names", set(found.values()), theirs)
    for side, has, expected in sides:
        assert not expected - has, f"of {side} these are missing: {sorted(expected - has)[:3]}"
        assert not has - expected, f"of {side} these do not exist: {sorted(has - expected)[:3]}"
    for name, part in parts.items():
        same = torch.equal(part.weight, tensors[f"{found[name]}.weight"])
        assert same, f"{name} -> {found[name]}, but that is another part"
    third = {n.replace(".layers.1.", ".layers.2."): t.replace(".layer.1.", ".layer.2.") for n, t in found.items()}
    assert yours(3) == found | third, "with 3 layers other names are expected: is the argument used?"


def lora_linear(yours) -> None:
    """The formula, written with one product after the other, and its gradients by autograd."""
    for bias in (True, False):
        base, x = nn.Linear(5, 4, bias=bias), torch.randn(3, 7, 5)
        before, W = base(x).detach(), base.weight.detach().clone()
        layer = yours(base, 2, 6.0)
        trains = sorted(name for name, parameter in layer.named_parameters() if parameter.requires_grad)
        assert trains == ["lora_A", "lora_B"], f"what trains is {trains}, expected lora_A and lora_B, nn.Parameters"
        assert not layer.lora_B.any(), "lora_B is not zero at the start"
        assert layer.lora_A.any(), "A is zero at the start, like B: then no gradient reaches either"
        close(layer(x), before, "at the start, where B is zero")
        nn.init.normal_(layer.lora_B)
        A, B = layer.lora_A, layer.lora_B
        expected = before + 3.0 * (B @ (A @ x[..., None]))[..., 0]
        close(layer(x), expected, "with B no longer zero")
        assert layer(x).requires_grad, "no gradient reaches lora_A and lora_B"
        gradients = torch.autograd.grad(expected.square().sum(), (A, B))
        found = torch.autograd.grad(layer(x).square().sum(), (A, B), allow_unused=True)
        for name, mine, right in zip(("lora_A", "lora_B"), found, gradients, strict=True):
            close(mine, right, f"the gradient of {name}")
        with torch.no_grad():  # merged, it is for answering
            layer.merge()
            close(base.weight, W + 3.0 * B @ A, "W after merging")
            close(layer(x), expected, "after merging, when W alone gives the result")
            layer.merge()
            close(layer(x), expected, "after merging twice (the second time changes nothing)")
            layer.unmerge()
            close(layer(x), expected, "after unmerging")
        assert torch.equal(base.weight, W), "unmerging does not restore W to the last bit"


def char_to_token_span(yours) -> None:
    """A look at every token: does it share a character with the span?"""
    rng = np.random.default_rng(0)
    for _ in range(200):
        cuts = np.sort(rng.choice(30, size=2 * int(rng.integers(1, 8)), replace=False)).reshape(-1, 2)
        start = int(rng.integers(0, 29))
        end = int(rng.integers(start + 1, 31))
        inside = [i for i, (a, b) in enumerate(cuts) if a < end and start < b]
        expected, found = (inside[0], inside[-1]) if inside else None, yours(cuts, start, end)
        assert found == expected, f"offsets {cuts.tolist()}, characters {start} to {end}: {found}, expected {expected}"


def windows(yours) -> None:
    """Pieces laid down one after the other until the end is reached."""
    for question, context, length, overlap in itertools.product((2, 3), range(1, 25), (9, 10), (0, 1, 3)):
        room, expected = length - question, [(0, min(length - question, context))]
        while expected[-1][1] < context:
            begin = expected[-1][0] + room - overlap
            expected.append((begin, min(begin + room, context)))
        found = [tuple(map(int, piece)) for piece in yours(question, context, length, overlap)]
        where = f"question {question}, context {context}, length {length}, overlap {overlap}"
        assert found == expected, f"{where}: {found}, expected {expected}"


def span_loss(yours) -> None:
    """-log of each right position's softmax, row by row."""
    start_logits, end_logits = torch.randn(2, 3, 7).unbind(0)
    mask = torch.tensor([[1, 0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 1, 0]]).bool()
    for start, end in (([3, 2, 4], [5, 2, 5]), ([0, 2, 0], [0, 4, 0])):
        total = 0.0
        for logits, positions in ((start_logits, start), (end_logits, end)):
            for row, allowed, position in zip(logits.tolist(), mask.tolist(), positions, strict=True):
                total -= row[position] - math.log(sum(math.exp(v) for v, a in zip(row, allowed, strict=True) if a))
        found = yours(start_logits, end_logits, torch.tensor(start), torch.tensor(end), mask)
        close(found, torch.tensor(total / 6), f"positions {start} to {end}")


def best_span(yours) -> None:
    """All pairs of positions."""
    generator = torch.Generator().manual_seed(0)
    for T, most, _ in itertools.product((2, 7, 12), (1, 3, 30), range(10)):
        start, end = torch.randn(2, T, generator=generator).unbind(0)
        mask = torch.rand(T, generator=generator) < 0.7
        mask[0] = mask[1] = True
        start[0] = end[0] = 9.0  # the null score must not win
        pairs = [(i, j) for i in range(1, T) for j in range(i, min(T, i + most)) if mask[i] and mask[j]]
        score, i, j = max((float(start[i] + end[j]), i, j) for i, j in pairs)
        found = yours(start, end, mask, most)
        where = f"T {T}, at most {most}, mask {mask.int().tolist()}"
        assert tuple(found[1:]) == (i, j), f"{where}: {tuple(found[1:])}, expected {(i, j)}"
        assert abs(found[0] - score) < 1e-4, f"{where}: score {found[0]}, expected {score}"


def best_threshold(yours) -> None:
    """Every threshold between two questions, tried."""

    def mean(threshold: float) -> float:
        return float(np.where(odds > threshold, ~has_answer, f1).mean())

    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 40):
        odds = rng.integers(-3, 4, size).astype(float)  # with ties
        has_answer = rng.random(size) < 0.5
        f1 = np.where(has_answer, rng.random(size), 0.0)
        best = max(mean(t) for t in np.arange(-4, 5) + 0.5)
        found = mean(float(yours(odds, f1, has_answer)))
        assert abs(found - best) < 1e-9, f"odds {odds.tolist()}: mean F1 {found:.4f}, expected {best:.4f}"


def scores(yours) -> None:
    """Worked examples."""
    cases = [
        ("the Normans", "Normans", 1, 1), ("Denver Broncos", "the Broncos!", 0, 2 / 3), ("10th", "10th-century", 0, 0),
        ("a b c d", "b c", 0, 0.8), ("very very good", "very good good", 0, 2 / 3), ("", "", 1, 1),
        ("", "Rollo", 0, 0), ("Rollo", "", 0, 0), ("U.S.", "us", 1, 1), ("The", "a", 1, 1),
        ("a.m.", "am", 1, 1), ("An apple", "apple", 1, 1), ("the, Normans", "Normans", 1, 1),
        ("Lima Peru", "Peru", 0, 2 / 3), ("twenty-one", "twentyone", 1, 1), ("very good", "good very", 0, 1),
    ]  # fmt: skip
    for gold, predicted, em, f1 in cases:
        found = tuple(map(float, yours(gold, predicted)))
        right = abs(found[0] - em) < 1e-9 and abs(found[1] - f1) < 1e-9
        assert right, f"gold {gold!r}, predicted {predicted!r}: EM and F1 {found}, expected {(em, f1)}"
