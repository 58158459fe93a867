"""The encoder against transformers: stored golden tensors everywhere, the real thing where it is installed."""

import pytest
import torch
import torch.nn.functional as F
from helpers import GOLDEN, INPUTS
from safetensors.torch import load_file

import minibert
from minibert.model import attention, eager_attention
from minirun import hardware


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def qa_loss(logits, start_positions, end_positions):
    """transformers' loss: over all T positions."""
    start, end = logits
    return (F.cross_entropy(start, start_positions) + F.cross_entropy(end, end_positions)) / 2


def checkpoint_gradients(model):
    names = minibert.checkpoint_names(model.config)
    pairs = ((key.rpartition("."), p.grad) for key, p in model.named_parameters())
    return {f"{names[module]}.{parameter}": grad for (module, _, parameter), grad in pairs}


def test_logits_loss_and_every_gradient_equal_transformers_golden():
    golden = load_file(GOLDEN / "tiny.safetensors")
    model = minibert.load_pretrained(GOLDEN / "tiny")
    logits = model(*(golden[name] for name in INPUTS))
    real = golden["attention_mask"].bool()
    for ours, name in zip(logits, ("start_logits", "end_logits"), strict=True):
        close(ours[real], golden[name][real])
    loss = qa_loss(logits, golden["start_positions"], golden["end_positions"])
    close(loss, golden["loss"])
    loss.backward()
    gradients = checkpoint_gradients(model)
    assert gradients.keys() == {key.removeprefix("gradient.") for key in golden if key.startswith("gradient.")}
    for name, gradient in gradients.items():
        close(gradient, golden[f"gradient.{name}"])


def test_minilm_logits_equal_transformers_golden(has_minilm):
    golden = load_file(GOLDEN / "minilm.safetensors")
    model = minibert.load_pretrained("minilm")
    with torch.no_grad():
        model.qa_outputs.weight.copy_(golden["qa_outputs.weight"])
        model.qa_outputs.bias.copy_(golden["qa_outputs.bias"])
        logits = model(*(golden[name] for name in INPUTS))
    real = golden["attention_mask"].bool()
    for ours, name in zip(logits, ("start_logits", "end_logits"), strict=True):
        # the fixed random head has entries of size 1, so logits are of size 20
        torch.testing.assert_close(ours[real], golden[name][real], rtol=1e-5, atol=5e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("sizes", "act"),
    [((41, 15, 2, 3, 22, 13), "gelu"), ((29, 14, 1, 7, 5, 9), "relu"), ((53, 24, 3, 4, 31, 20), "gelu")],
)
def test_random_models_equal_transformers(tmp_path, sizes, act):
    transformers = pytest.importorskip("transformers")
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    fields = dict(zip((*names, "max_position_embeddings"), sizes, strict=True))
    config = transformers.BertConfig(**fields, hidden_act=act, initializer_range=0.3)
    theirs = transformers.BertForQuestionAnswering(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = minibert.load_pretrained(tmp_path)
    B, T = 3, sizes[-1]
    mask = (torch.arange(T) < torch.tensor([[T], [T - 1], [4]])).long()
    inputs = torch.randint(1, sizes[0], (B, T)), (torch.arange(T) > 2).long().repeat(B, 1), mask
    labels = torch.tensor([0, 3, 1]), torch.tensor([0, 5, 2])
    logits = ours(*inputs)
    output = theirs(**dict(zip(INPUTS, inputs, strict=True)), start_positions=labels[0], end_positions=labels[1])
    close(logits[0][mask.bool()], output.start_logits[mask.bool()])
    close(logits[1][mask.bool()], output.end_logits[mask.bool()])
    qa_loss(logits, *labels).backward()
    output.loss.backward()
    expected = dict(theirs.named_parameters())
    for name, gradient in checkpoint_gradients(ours).items():
        close(gradient, expected[name].grad)


def test_padding_changes_nothing(model, inputs):
    alone = model(*(x[2:, :3] for x in inputs))
    padded = model(*inputs)
    for one, other in zip(alone, padded, strict=True):
        close(one[0], other[2, :3])


@pytest.mark.parametrize("fused", [False, True])
def test_eval_is_deterministic_with_attention_dropout(config, inputs, fused, monkeypatch):
    """Fused as on a GPU, where F.scaled_dot_product_attention would drop weights in eval mode too."""
    from dataclasses import replace

    monkeypatch.setattr(minibert.model, "fused_attention_pays", lambda *_: fused)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    model = minibert.BertForQuestionAnswering(replace(config, **rates))
    model.eval()
    assert torch.equal(model(*inputs)[0], model(*inputs)[0])
    model.train()
    assert not torch.equal(model(*inputs)[0], model(*inputs)[0])


def test_attention_dropout_sets_weights_to_zero_and_scales_the_others():
    q, k, v = *torch.randn(2, 3, 2, 7, 7).unbind(0), torch.eye(7).expand(3, 2, 7, 7)  # with v = I the weights come back
    mask = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    weights, dropped = (minibert.model.eager_attention(q, k, v, mask, p) for p in (0.0, 0.5))
    kept = dropped != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(dropped, weights * kept / 0.5)


def test_the_output_of_both_halves_of_a_layer_is_dropped(config):
    """With the one half's weights at zero only the other's output is random."""
    from dataclasses import replace

    rates = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.0}
    x, mask = torch.randn(3, 7, 15), torch.ones(3, 1, 1, 7, dtype=torch.bool)
    for silent in ("attention_output", "output"):
        layer = minibert.model.Layer(replace(config, **rates)).train()
        for parameter in layer.get_submodule(silent).parameters():
            torch.nn.init.zeros_(parameter)
        assert not torch.equal(layer(x, mask), layer(x, mask))


def test_zero_dropout_makes_train_and_eval_equal(config, inputs):
    from dataclasses import replace

    model = minibert.BertForQuestionAnswering(
        replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    )
    close(model.train()(*inputs)[0], model.eval()(*inputs)[0])


def test_written_out_attention_equals_the_fused_one():
    q, k, v = torch.randn(3, 3, 2, 7, 5).double().unbind(0)
    mask = (torch.arange(7) < torch.tensor([[7], [4], [1]]))[:, None, None]
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(eager_attention(q, k, v, mask, 0.0), expected)
    torch.testing.assert_close(attention(q.requires_grad_(), k, v, mask, 0.0), expected)


@pytest.mark.parametrize("has_amx", [True, False])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("trains", [True, False])
def test_attention_is_the_formula_whichever_way_is_faster(has_amx, dtype, within, trains, monkeypatch):
    monkeypatch.setattr(hardware, "HAS_AMX", has_amx)
    q, k, v = torch.randn(3, 3, 2, 7, 5).unbind(0)
    mask = (torch.arange(7) < torch.tensor([[7], [4], [1]]))[:, None, None]
    scores = (q.double() @ k.double().mT / 5**0.5).masked_fill(~mask, -torch.inf)
    expected = scores.softmax(-1) @ v.double()
    found = attention(q.to(dtype).requires_grad_(trains), k.to(dtype), v.to(dtype), mask, 0.0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=within, atol=within)


def test_float16_masks_do_not_overflow():
    q, k, v = torch.randn(3, 1, 2, 7, 5).half().unbind(0)
    mask = (torch.arange(7) < 4)[None, None, None]
    out = eager_attention(q, k, v, mask, 0.0)
    assert out.isfinite().all()
    torch.testing.assert_close(out, eager_attention(q, k[:, :, :4], v[:, :, :4], mask[..., :4], 0.0))


def test_logits_are_float32_under_autocast(model, inputs):
    for parameter in model.bert.parameters():
        parameter.data = parameter.data.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        start, end = model(*inputs)
    assert start.dtype == end.dtype == torch.float32


def test_a_sequence_longer_than_the_positions_says_so(model):
    ids = torch.ones(1, 12, dtype=torch.long)
    with pytest.raises(ValueError, match="12 tokens, but this model has 11 positions"):
        model(ids, ids, ids)
