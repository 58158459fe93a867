"""minirun/packed.py: the products of oneDNN against plain ones, forwards and backwards, alone and under LoRA."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers import add_lora

import lora
import minibert
from minirun import choose_precision, packed

pytestmark = pytest.mark.skipif(not packed.can_pack(), reason="this PyTorch has no packed products")


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def every(weight):
    return True


def linear(inputs=15, outputs=22, bias=True):
    return torch.nn.Linear(inputs, outputs, bias).requires_grad_(False)


def test_a_derivative_of_a_derivative_is_refused_and_not_wrong():
    x = torch.randn(3, 15, requires_grad=True)
    [slope] = torch.autograd.grad(packed.PackedLinear(linear())(x).square().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.square().sum().backward()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(3, 7), (1, 1), (5,)])
def test_values_and_gradients_are_those_of_f_linear(rows, bias):
    layer = linear(bias=bias)
    x, again = (torch.randn(*rows, 15, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    found, expected = packed.PackedLinear(layer)(x), F.linear(again, layer.weight, layer.bias)
    close(found, expected)
    slope = torch.randn_like(expected)
    found.backward(slope)
    expected.backward(slope)
    close(x.grad, again.grad)


def test_a_weight_that_is_changed_in_place_is_packed_anew():
    layer = packed.PackedLinear(linear())
    x = torch.randn(3, 15)
    layer(x)
    layer.weight.add_(1.0)
    close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_a_gradient_that_is_a_view_is_taken():
    layer = packed.PackedLinear(linear())
    x = torch.randn(7, 15, requires_grad=True)
    layer(x).T.sum().backward()  # an expanded gradient, without memory of its own
    close(x.grad, layer.weight.sum(0).expand(7, 15))


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapted_model_has_the_same_logits_and_gradients_packed(model, inputs, merged):
    add_lora(model, rank=2, alpha=4)
    for _, layer in lora.lora_layers(model):
        torch.nn.init.normal_(layer.lora_B)
    other = copy.deepcopy(model)
    assert packed.pack_frozen(other, every) == 12  # six in each of two layers, but not the head, which trains
    assert list(other.state_dict()) == list(model.state_dict())
    gradients = []
    for one in (model, other):
        if merged:
            lora.merge(one)
        start, end = one(*inputs)
        mask = inputs[2].bool()
        (start[mask].sin().sum() + end[mask].cos().sum()).backward()
        gradients.append([p.grad for p in one.parameters() if p.grad is not None] + [start[mask], end[mask]])
    assert len(gradients[0]) == (4 if merged else 4 + 2 * len(list(lora.lora_layers(model))))
    for found, expected in zip(*gradients, strict=True):
        close(found, expected)


def test_merging_after_use_packs_anew_and_unmerging_too(model, inputs):
    add_lora(model, rank=2, alpha=4)
    for _, layer in lora.lora_layers(model):
        torch.nn.init.normal_(layer.lora_B)
    packed.pack_frozen(model, every)
    with torch.no_grad():
        before = model(*inputs)
        lora.merge(model)
        close(model(*inputs), before)
        close(
            model.bert.layers[0].query(torch.ones(15)),
            F.linear(torch.ones(15), *model.bert.layers[0].query.base.parameters()),
        )
        lora.unmerge(model)
        close(model(*inputs), before)


def test_a_weight_at_an_address_used_before_is_packed_anew():
    """Merging frees memory that the next merge may get again: the same address then holds another weight."""
    layer = torch.nn.Sequential(linear(384, 384))
    lora.add_lora(layer, rank=2, alpha=4, targets="all")
    packed.pack_frozen(layer, every)
    [(_, adapted)] = lora.lora_layers(layer)
    x = torch.randn(3, 384)
    for _ in range(100):
        torch.nn.init.normal_(adapted.lora_B)
        with torch.no_grad():
            lora.merge(layer)
            expected = F.linear(x, adapted.base.weight, adapted.base.bias)
            torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-3)
            lora.unmerge(layer)


def test_only_frozen_linears_are_packed_where_it_pays(model):
    assert packed.pack_frozen(model, every) == 0
    model.bert.requires_grad_(False)
    assert packed.pack_frozen(model, lambda weight: weight.shape[0] == 22) == 2
    kinds = {name: type(part) for name, part in model.named_modules()}
    assert kinds["bert.layers.0.intermediate"] is packed.PackedLinear
    assert kinds["bert.layers.0.query"] is kinds["qa_outputs"] is torch.nn.Linear


def test_where_it_pays(monkeypatch):
    float32, bfloat16, float16 = (torch.zeros(3, 3, dtype=t) for t in (torch.float32, torch.bfloat16, torch.float16))
    monkeypatch.setattr(packed.platform, "machine", lambda: "x86_64")
    for amd, native in ((False, False), (False, True), (True, False), (True, True)):
        monkeypatch.setattr(packed, "_is_amd", lambda amd=amd: amd)
        auto = torch.bfloat16 if native else torch.float32
        monkeypatch.setattr(packed, "choose_precision", lambda name, device, auto=auto: auto)
        assert [packed.packing_pays(w) for w in (float32, bfloat16, float16)] == [amd, native, False]
    assert not packed.packing_pays(float32.to("meta"))
    monkeypatch.setattr(packed.platform, "machine", lambda: "aarch64")
    assert not packed.packing_pays(float32) and not packed.packing_pays(bfloat16)


def test_in_bfloat16_too_where_the_processor_has_it():
    if choose_precision("auto", torch.device("cpu")) != torch.bfloat16:
        pytest.skip("this processor does not multiply bfloat16")
    layer = linear().to(torch.bfloat16)
    x = torch.randn(3, 7, 15, dtype=torch.bfloat16, requires_grad=True)
    found, expected = packed.PackedLinear(layer)(x), F.linear(x.float(), layer.weight.float(), layer.bias.float())
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=2**-7)
    found.sum().backward()
    torch.testing.assert_close(x.grad.float()[0, 0], layer.weight.float().sum(0), rtol=2**-7, atol=2**-7)


def test_a_model_made_in_inference_mode_answers_there(config, inputs):
    with torch.inference_mode():
        model = minibert.BertForQuestionAnswering(config).eval().requires_grad_(False)
        before = model(*inputs)
        packed.prepare_frozen(model, torch.float32)
        for found, expected in zip(model(*inputs), before, strict=True):
            close(found, expected)


def test_copies_pickles_and_checkpoints_hold_the_plain_weights(model, inputs, tmp_path):
    model.requires_grad_(False)
    before = model(*inputs)
    packed.pack_frozen(model, every)
    close(model(*inputs), before)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        close(other(*inputs), before)
    minibert.save_pretrained(model, tmp_path)
    close(minibert.load_pretrained(tmp_path)(*inputs), before)


def test_moved_to_another_device_it_computes_as_a_plain_layer():
    """The device is `meta`, which has shapes and no values: oneDNN's operators would refuse it as they would a GPU."""
    layer = packed.PackedLinear(linear())
    layer(torch.ones(3, 15))
    layer = layer.to("meta")
    x = torch.ones(3, 7, 15, device="meta", requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert layer(torch.ones(2, 15, device="meta")).shape == (2, 22)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_converted_to_what_cannot_be_packed_it_computes_as_a_plain_layer(dtype):
    layer, x = packed.PackedLinear(linear()), torch.randn(3, 15)
    layer(x)
    layer, x = layer.to(dtype), x.to(dtype).requires_grad_(True)
    h = layer(x)
    assert torch.equal(h, F.linear(x, layer.weight, layer.bias))
    h.sum().backward()
    torch.testing.assert_close(x.grad[0], layer.weight.sum(0))


@pytest.mark.parametrize("adapted", [False, True])
def test_unfrozen_it_trains_as_a_plain_layer(adapted):
    plain, x = linear(), torch.randn(3, 7, 15)
    layer = packed.PackedLinear(copy.deepcopy(plain))
    layer(x)
    whole = lora.LoRALinear(layer, 3, 6.0) if adapted else layer
    for each in (plain, layer):
        each.requires_grad_(True)
    for h in (plain(x), whole(x)):  # B of a new update is 0
        h.square().sum().backward()
    close(layer.weight.grad, plain.weight.grad)
    close(layer.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_an_empty_batch_has_an_empty_result(is_packed, adapted):
    layer = packed.PackedLinear(linear()) if is_packed else linear()
    layer = lora.LoRALinear(layer, 3, 6.0) if adapted else layer
    x = torch.zeros(0, 7, 15, requires_grad=True)
    h = layer(x)
    assert h.shape == (0, 7, 22)
    h.sum().backward()
    assert x.grad.shape == x.shape
