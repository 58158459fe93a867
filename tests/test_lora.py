"""LoRA layers: their arithmetic, what they wrap and freeze, merging."""

import math

import pytest
import torch
from helpers import add_lora, shake
from torch import nn

import lora
import minibert
from lora import LoRALinear
from lora.linear import lora_linear


def logits(model, inputs):
    with torch.no_grad():
        return torch.stack(model(*inputs))


def test_step_zero_is_the_base_exactly(model, inputs):
    before = logits(model, inputs)
    add_lora(model, 3, 6, "all")
    assert torch.equal(logits(model, inputs), before)


def test_forward_is_the_papers_formula():
    base = nn.Linear(5, 4)
    layer = LoRALinear(base, rank=3, alpha=7)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(2, 3, 5)
    expected = x @ (base.weight + 7 / 3 * layer.lora_B @ layer.lora_A).T + base.bias
    torch.testing.assert_close(layer(x), expected)
    assert layer.lora_A.shape == (3, 5)
    assert layer.lora_B.shape == (4, 3)
    assert layer.lora_A.abs().max() <= 1 / math.sqrt(5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_update_equals_the_plain_formula(bias, dtype):
    """Value and every gradient of lora_linear against autograd's of the formula written out."""
    x = torch.randn(3, 7, 5, dtype=dtype, requires_grad=True)
    W, b = torch.randn(4, 5, dtype=dtype), torch.randn(4, dtype=dtype) if bias else None
    sA, B = torch.randn(2, 5, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    dh = torch.randn(3, 7, 4, dtype=dtype)

    def value_and_gradients(h):
        return h, *torch.autograd.grad(h, (x, sA, B), dh.to(h.dtype))

    plain = nn.functional.linear(x.float(), W.float() + B @ sA, None if b is None else b.float())
    fused = lora_linear(x, W, b, sA, B)
    assert fused.dtype == dtype
    # bfloat16 rounds to 1 part in 256 in each of a handful of operations
    tolerance = {"rtol": 0.05, "atol": 0.15} if dtype == torch.bfloat16 else {}
    for one, other in zip(value_and_gradients(fused), value_and_gradients(plain), strict=True):
        torch.testing.assert_close(one.float(), other.float(), **tolerance)


@pytest.mark.parametrize("trained", [("weight", "bias"), ("bias",), ()])
def test_a_base_that_trains_gets_its_gradient(trained):
    """The fused update gives none, so a base that is not wholly frozen must not go through it."""
    layer = LoRALinear(nn.Linear(5, 4).requires_grad_(False), rank=2, alpha=3)
    for name in trained:
        layer.base.get_parameter(name).requires_grad_(True)
    layer(torch.randn(3, 5)).square().sum().backward()
    assert {name for name, p in layer.base.named_parameters() if p.grad is not None} == set(trained)
    assert layer.lora_A.grad is not None and layer.lora_B.grad is not None


def test_gradients_equal_finite_differences():
    layer = LoRALinear(nn.Linear(5, 4).requires_grad_(False), rank=2, alpha=3).double()
    nn.init.normal_(layer.lora_B)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def f(x, A, B):
        return torch.func.functional_call(layer, {"lora_A": A, "lora_B": B}, (x,))

    assert torch.autograd.gradcheck(f, (x, layer.lora_A, layer.lora_B))


def test_a_derivative_of_a_derivative_is_refused_and_not_wrong():
    layer = LoRALinear(nn.Linear(5, 4).requires_grad_(False), rank=2, alpha=3)
    [slope] = torch.autograd.grad(layer(torch.randn(3, 5)).square().sum(), [layer.lora_A], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.square().sum().backward()


@pytest.mark.parametrize("frozen", [True, False])
def test_dropout_acts_on_the_update_only_and_only_in_training(frozen):
    layer = LoRALinear(nn.Linear(50, 4).requires_grad_(not frozen), rank=2, alpha=3, dropout=0.5)
    x = torch.randn(3, 50)
    assert torch.equal(layer.train()(x), layer.base(x))  # B is zero: whatever is dropped, nothing is added
    nn.init.normal_(layer.lora_B)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_adapters_stay_float32_on_a_bfloat16_base():
    layer = LoRALinear(nn.Linear(5, 4).bfloat16(), rank=2, alpha=3)
    assert layer.lora_A.dtype == layer.lora_B.dtype == torch.float32
    out = layer(torch.randn(3, 5).bfloat16())
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert layer.lora_B.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_merging_keeps_the_dtype_of_the_base(dtype):
    base = nn.Linear(5, 4).to(dtype)
    W, layer = base.weight.clone(), LoRALinear(base, rank=3, alpha=7)
    nn.init.normal_(layer.lora_B)
    if dtype == torch.float64:
        layer.double()  # A and B too, and then nothing is rounded to float32 on the way
    assert layer.weight.dtype == dtype
    layer.merge()
    assert base.weight.dtype == layer.weight.dtype == dtype
    wide = torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(base.weight, (W.to(wide) + 7 / 3 * layer.lora_B @ layer.lora_A).to(dtype))
    layer.unmerge()
    assert base.weight.dtype == dtype
    assert torch.equal(base.weight, W)


def test_a_starts_as_nn_linear_does():
    """Uniform in +-1/sqrt(in), whose standard deviation is 1/sqrt(3 in)."""
    A = LoRALinear(nn.Linear(300, 5), rank=5, alpha=1).lora_A
    assert A.abs().max() <= 300**-0.5
    assert A.std().item() == pytest.approx((3 * 300) ** -0.5, rel=0.1)


def test_merge_and_unmerge(model, inputs):
    add_lora(model, 3, 6, "all")
    shake(model)
    base = {name: layer.base.weight.clone() for name, layer in lora.lora_layers(model)}
    before = logits(model, inputs)
    lora.merge(model)
    lora.merge(model)  # a second time does nothing
    assert all(layer.merged for _, layer in lora.lora_layers(model))
    assert not any(torch.equal(layer.base.weight, base[name]) for name, layer in lora.lora_layers(model))
    torch.testing.assert_close(logits(model, inputs), before, rtol=1e-5, atol=1e-5)
    model.train().eval()  # mode changes never merge or unmerge
    assert all(layer.merged for _, layer in lora.lora_layers(model))
    lora.unmerge(model)
    lora.unmerge(model)
    assert all(torch.equal(layer.base.weight, base[name]) for name, layer in lora.lora_layers(model))
    assert torch.equal(logits(model, inputs), before)


def test_unmerging_after_a_change_of_dtype_keeps_the_new_one(model, inputs):
    add_lora(model, 3, 6, "all")
    shake(model)
    before = {name: layer.base.weight.clone() for name, layer in lora.lora_layers(model)}
    lora.merge(model)
    model.to(torch.bfloat16)
    lora.unmerge(model)
    for name, layer in lora.lora_layers(model):
        assert torch.equal(layer.base.weight, before[name].bfloat16())
    assert logits(model, inputs).dtype == torch.bfloat16


def test_a_merged_model_does_not_seem_to_train(model, inputs):
    add_lora(model, 2, 4)
    lora.merge(model)
    with pytest.raises(RuntimeError, match=r"a merged LoRA layer cannot train: unmerge\(\) the model first"):
        model.train()(*inputs)
    with torch.no_grad():
        model(*inputs)
    lora.unmerge(model)
    model(*inputs)[0].sum().backward()
    assert all(layer.lora_B.grad is not None for _, layer in lora.lora_layers(model))


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_could_not_learn_is_refused(alpha):
    with pytest.raises(ValueError, match=f"LoRA alpha is {alpha}, expected a number above 0"):
        LoRALinear(nn.Linear(5, 4), 2, alpha)


def test_without_a_head_only_the_updates_train():
    """A stack of linear layers that knows no head, as of any other model."""
    stack = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    assert lora.add_lora(stack, 2, 4) == ["0", "1"]
    trained = {name for name, p in stack.named_parameters() if p.requires_grad}
    assert trained == {f"{layer}.lora_{side}" for layer in "01" for side in "AB"}


def test_an_adapter_that_has_not_moved_is_told(model):
    lora.check_moved(model, "nothing")  # there is none
    add_lora(model, 2, 4)
    with pytest.raises(
        ValueError, match="every lora_B is still zero after 7 steps: either the learning rate is too low"
    ):
        lora.check_moved(model, "7 steps")
    next(layer for _, layer in lora.lora_layers(model)).lora_B.data[0, 0] = 1e-30
    lora.check_moved(model, "7 steps")


def test_remove_lora_leaves_a_plain_model_that_saves(model, inputs, tmp_path):
    add_lora(model, 3, 6)
    shake(model)
    before = logits(model, inputs)
    lora.merge(model)
    with pytest.raises(ValueError, match=r"lora\.remove_lora\(model\) merges the updates"):
        minibert.save_pretrained(model, tmp_path)
    lora.remove_lora(model)
    minibert.save_pretrained(model, tmp_path)
    torch.testing.assert_close(logits(minibert.load_pretrained(tmp_path), inputs), before, rtol=1e-5, atol=1e-5)


def test_lora_taken_out_unmerged_leaves_the_base_for_another(model, inputs):
    base = logits(model, inputs)
    add_lora(model, 3, 6)
    with pytest.raises(ValueError, match="has LoRA layers already"):
        add_lora(model, 3, 6)
    shake(model)
    lora.merge(model)
    lora.remove_lora(model, keep=False)
    assert torch.equal(logits(model, inputs), base)
    add_lora(model, 2, 4)


@pytest.mark.parametrize("training", [True, False])
def test_modules_that_read_a_layers_weight_see_the_update(training):
    """PyTorch's own encoder layer, which reads weights where it could call layers, against itself once merged."""
    theirs = nn.TransformerEncoderLayer(6, 2, 10, dropout=0.0, batch_first=True).train(training)
    x = torch.randn(3, 7, 6)
    assert lora.add_lora(theirs, 2, 4) == ["self_attn.out_proj", "linear1", "linear2"]
    shake(theirs)
    updated = theirs(x)
    if training:
        updated.square().sum().backward()
        assert all(p.grad.any() for p in theirs.parameters() if p.requires_grad)
    lora.remove_lora(theirs)
    torch.testing.assert_close(theirs(x), updated)


@pytest.mark.parametrize("model", [nn.Linear(4, 4), nn.LayerNorm(4), nn.Sequential(nn.Embedding(3, 4))])
def test_a_model_without_linear_layers_in_it_is_told_so(model):
    with pytest.raises(ValueError, match="holds no linear layers to wrap"):
        lora.add_lora(model, 2, 4)


@pytest.mark.parametrize(
    ("targets", "linears"),
    [
        ("query,value", ["query", "value"]),
        ("all", ["query", "key", "value", "attention_output", "intermediate", "output"]),
        ("key", ["key"]),
        (["output", "query"], ["query", "output"]),
    ],
)
def test_trainable_is_adapters_and_head_exactly(model, targets, linears):
    wrapped = add_lora(model, 2, 4, targets)
    assert wrapped == [f"bert.layers.{i}.{name}" for i in range(2) for name in linears]
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {f"{name}.lora_{side}" for name in wrapped for side in "AB"}
    assert trainable == expected | {"qa_outputs.weight", "qa_outputs.bias"}


def test_one_layer_can_be_named(model):
    assert add_lora(model, 2, 4, ["layers.1.key"]) == ["bert.layers.1.key"]


def test_layers_inside_the_head_are_not_wrapped():
    model = nn.Sequential()
    model.body, model.head = nn.Linear(3, 7), nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2))
    model.header = nn.Linear(2, 3)
    assert lora.add_lora(model, 2, 4, targets=("all",), head="head") == ["body", "header"]
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_errors_name_what_there_is(model):
    with pytest.raises(ValueError, match=r"'qurey' matches no linear layer; there are .*query"):
        lora.add_lora(model, 2, 4, targets="query,qurey")
    with pytest.raises(ValueError, match=r"targets are \[\], expected all, or names"):
        lora.add_lora(model, 2, 4, targets=[])
    with pytest.raises(ValueError, match=r"rank is 3, expected at most 2, the smaller side of qa_outputs"):
        lora.add_lora(model, 3, 4)  # all linear layers, as no head was named
    with pytest.raises(AttributeError, match="classifier"):
        lora.add_lora(model, 2, 4, head="classifier")
    assert not list(lora.lora_layers(model))
    with pytest.raises(ValueError, match="rank is 0"):
        LoRALinear(nn.Linear(2, 2), 0, 1)
    with pytest.raises(ValueError, match="dropout is 1"):
        LoRALinear(nn.Linear(2, 2), 1, 1, dropout=1)
