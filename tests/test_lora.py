"""LoRA layers, what they wrap and freeze, and adapters in PEFT's layout."""

import copy
import json
import logging
import math
import shutil
import tempfile

import pytest
import torch
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import lora
import minibert
from lora import AdapterError, LoRALinear
from lora.linear import lora_linear


def shake(model):
    """Move B away from zero, so that the updates do something."""
    with torch.no_grad():
        for _, layer in lora.lora_layers(model):
            layer.lora_B.normal_()


def logits(model, inputs):
    with torch.no_grad():
        return torch.stack(model(*inputs))


def test_step_zero_is_the_base_exactly(model, inputs):
    before = logits(model, inputs)
    lora.add_lora(model, rank=3, alpha=6, targets="all")
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


def test_dropout_acts_on_the_update_only_and_only_in_training():
    layer = LoRALinear(nn.Linear(50, 4), rank=2, alpha=3, dropout=0.5)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge_and_unmerge(model, inputs, dtype):
    lora.add_lora(model, rank=3, alpha=6, targets="all")
    shake(model)
    with torch.no_grad():
        for _, layer in lora.lora_layers(model):
            layer.base.weight.data = layer.base.weight.data.to(dtype).float()
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


def test_remove_lora_leaves_a_plain_model_that_saves(model, inputs, tmp_path):
    lora.add_lora(model, rank=3, alpha=6)
    shake(model)
    before = logits(model, inputs)
    with pytest.raises(ValueError, match="merge adapters away first"):
        minibert.save_pretrained(model, tmp_path)
    lora.remove_lora(model)
    minibert.save_pretrained(model, tmp_path)
    torch.testing.assert_close(logits(minibert.load_pretrained(tmp_path), inputs), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "linears"),
    [
        ("attention", ["query", "value"]),
        ("all", ["query", "key", "value", "attention_output", "intermediate", "output"]),
        ("key", ["key"]),
        (["output", "query"], ["query", "output"]),
    ],
)
def test_trainable_is_adapters_and_head_exactly(model, targets, linears):
    wrapped = lora.add_lora(model, rank=2, alpha=4, targets=targets)
    assert wrapped == [f"bert.layers.{i}.{name}" for i in range(2) for name in linears]
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    expected = {f"{name}.lora_{side}" for name in wrapped for side in "AB"}
    assert trainable == expected | {"qa_outputs.weight", "qa_outputs.bias"}


def test_one_layer_can_be_named(model):
    assert lora.add_lora(model, 2, 4, targets=["layers.1.key"]) == ["bert.layers.1.key"]


def test_errors_name_what_there_is(model):
    with pytest.raises(ValueError, match=r"'qurey' matches no linear layer; there are .*query"):
        lora.add_lora(model, 2, 4, targets="qurey")
    with pytest.raises(ValueError, match="rank is 0"):
        LoRALinear(nn.Linear(2, 2), 0, 1)
    with pytest.raises(ValueError, match="dropout is 1"):
        LoRALinear(nn.Linear(2, 2), 1, 1, dropout=1)


# ------------------------------------------------------------------------------------------- on disk


@pytest.fixture
def tiny():
    return minibert.load_pretrained(GOLDEN / "tiny")


@pytest.fixture
def names(tiny):
    return minibert.checkpoint_names(tiny.config)


def adapted(tiny):
    """tiny with a trained-looking adapter and head."""
    lora.add_lora(tiny, rank=3, alpha=5, dropout=0.1, targets=["query", "output"])
    shake(tiny)
    nn.init.normal_(tiny.qa_outputs.weight)
    return tiny.eval()


def test_round_trip(tiny, names, inputs, tmp_path):
    model = adapted(tiny)
    lora.save_adapter(model, tmp_path / "a", names, "tiny")
    again = minibert.load_pretrained(GOLDEN / "tiny")
    assert lora.load_adapter(again, tmp_path / "a", names) == [n for n, _ in lora.lora_layers(again)]
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    lora.save_adapter(again, tmp_path / "b", names, "tiny")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_reads_an_adapter_of_pefts_with_rslora_and_patterns(tiny, names):
    golden = load_file(GOLDEN / "tiny.safetensors")
    expected = load_file(GOLDEN / "adapter" / "logits.safetensors")
    wrapped = lora.load_adapter(tiny, GOLDEN / "adapter", names)
    assert len(wrapped) == 6  # query, attention_output and output of two layers
    start, end = logits(tiny, [golden[n] for n in ("input_ids", "token_type_ids", "attention_mask")])
    real = golden["attention_mask"].bool()
    torch.testing.assert_close(start[real], expected["start_logits"][real], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(end[real], expected["end_logits"][real], rtol=1e-5, atol=2e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("targets", ["attention", "all", ["layers.1.key", "output"]])
def test_peft_reads_an_adapter_of_ours(tiny, names, inputs, tmp_path, targets):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    lora.add_lora(tiny, rank=3, alpha=5, targets=targets)
    lora_layer = next(layer for _, layer in lora.lora_layers(tiny))
    lora_layer.alpha, lora_layer.scale = 9, 9 / 3  # one layer apart: an alpha_pattern
    shake(tiny)
    nn.init.normal_(tiny.qa_outputs.bias)
    lora.save_adapter(tiny, tmp_path, names, "tiny")
    base = transformers.BertForQuestionAnswering.from_pretrained(GOLDEN / "tiny")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        # peft 0.21.2's own forward for question answering drops token_type_ids: ask the model inside
        output = theirs.get_base_model()(input_ids=inputs[0], token_type_ids=inputs[1], attention_mask=inputs[2])
    real = inputs[2].bool()
    ours = logits(tiny, inputs)
    torch.testing.assert_close(ours[0][real], output.start_logits[real], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(ours[1][real], output.end_logits[real], rtol=1e-5, atol=2e-5)


def spoilt(folder, **changes):
    """A copy of the golden adapter with these fields of its config changed."""
    shutil.copytree(GOLDEN / "adapter", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora=True not supported"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias=True not supported"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow=1 not supported"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"alpha_pattern": {"nowhere": 1}}, None),
        ({"alpha_pattern": {"(.|.)*Z": 1}}, "is no plain module name"),  # would take for ever
        ({"alpha_pattern": {"(": 1}}, "is no plain module name"),
        ({"alpha_pattern": {"query": "x"}}, "alpha_pattern 'query' is 'x'"),
        ({"alpha_pattern": ["query"]}, "alpha_pattern is a list"),
        ({"lora_dropout": "x"}, "lora_dropout is 'x'"),
    ],
)
def test_unsupported_adapters_are_named(tiny, names, tmp_path, changes, message):
    folder = spoilt(tmp_path / "a", **changes)
    if message is None:
        lora.load_adapter(tiny, folder, names)
        return
    with pytest.raises(AdapterError, match=message):
        lora.load_adapter(tiny, folder, names)


def test_an_adapter_for_another_base_says_so(names, config, tmp_path):
    from dataclasses import replace

    shallow = minibert.BertForQuestionAnswering(replace(config, num_hidden_layers=1))
    with pytest.raises(AdapterError, match=r"fit no layer of this model, .*another base model"):
        lora.load_adapter(shallow, GOLDEN / "adapter", minibert.checkpoint_names(shallow.config))
    wide = minibert.BertForQuestionAnswering(replace(config, hidden_size=18))
    with pytest.raises(AdapterError, match=r"is \(3, 15\), this model needs \(3, 18\).*another base model"):
        lora.load_adapter(wide, GOLDEN / "adapter", names)
    assert not list(lora.lora_layers(wide))  # refused before anything was wrapped


def test_broken_folders(tiny, names, tmp_path):
    with pytest.raises(AdapterError, match="not a readable adapter"):
        lora.load_adapter(tiny, tmp_path, names)
    folder = spoilt(tmp_path / "a")
    state = load_file(folder / "adapter_model.safetensors")
    key = next(k for k in state if "lora_B" in k)
    del state[key]
    save_file(state, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="needs lora_A and lora_B"):
        lora.load_adapter(tiny, folder, names)


def test_a_missing_head_is_told(tiny, names, tmp_path, caplog):
    folder = spoilt(tmp_path / "a")
    state = load_file(folder / "adapter_model.safetensors")
    save_file({k: v for k, v in state.items() if "qa_outputs" not in k}, folder / "adapter_model.safetensors")
    with caplog.at_level(logging.WARNING, "lora"):
        lora.load_adapter(tiny, folder, names)
    assert "has no QA head" in caplog.text


def test_saving_without_adapters_is_an_error(tiny, names, tmp_path):
    with pytest.raises(ValueError, match="no LoRA layers"):
        lora.save_adapter(tiny, tmp_path, names)


# ------------------------------------------------------------------------------- properties of round trips


@st.composite
def adapted_models(draw):
    """A small random BERT with random adapters: sizes, rank, alpha and targets all drawn."""
    heads, per_head = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    config = minibert.BertConfig(
        vocab_size=draw(st.integers(8, 20)), hidden_size=heads * per_head + heads,
        num_hidden_layers=draw(st.integers(1, 3)), num_attention_heads=heads,
        intermediate_size=draw(st.integers(2, 9)), max_position_embeddings=draw(st.integers(7, 9)),
        initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(draw(st.integers(0, 1000)))
    base = minibert.BertForQuestionAnswering(config).eval()
    names = [name for name, module in base.named_modules() if isinstance(module, nn.Linear) and name != "qa_outputs"]
    targets = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    model = copy.deepcopy(base)
    rank = draw(st.integers(1, min(config.hidden_size, config.intermediate_size)))
    lora.add_lora(model, rank, draw(st.floats(0.5, 64)), targets=targets)
    shake(model)
    nn.init.normal_(model.qa_outputs.bias)
    return base, model.eval()


@given(adapted_models())
def test_any_adapter_comes_back_as_it_was(models):
    base, model = models
    names, ids = minibert.checkpoint_names(base.config), torch.arange(7).repeat(3, 1)
    ones = torch.ones_like(ids)
    with tempfile.TemporaryDirectory() as folder:
        lora.save_adapter(model, folder, names, "base")
        lora.load_adapter(base, folder, names)
    assert torch.equal(logits(base, (ids, ones, ones)), logits(model, (ids, ones, ones)))
    assert {n for n, _ in lora.lora_layers(base)} == {n for n, _ in lora.lora_layers(model)}


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=15)
@given(adapted_models())
def test_any_adapter_and_its_base_are_the_same_in_peft(models):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base, model = models
    ids = torch.arange(7).repeat(3, 1)
    ones = torch.ones_like(ids)
    with tempfile.TemporaryDirectory() as folder:
        minibert.save_pretrained(base, f"{folder}/base")
        lora.save_adapter(model, f"{folder}/adapter", minibert.checkpoint_names(base.config), "base")
        theirs = transformers.BertForQuestionAnswering.from_pretrained(f"{folder}/base")
        theirs = peft.PeftModel.from_pretrained(theirs, f"{folder}/adapter").eval()
        theirs.save_pretrained(f"{folder}/again")
        lora.load_adapter(base, f"{folder}/again", minibert.checkpoint_names(base.config))
    assert torch.equal(logits(base, (ids, ones, ones)), logits(model, (ids, ones, ones)))
    # in float64: with an alpha of 64 some of these models lose half of float32's digits, in either implementation
    ours = logits(model.double(), (ids, ones, ones))
    with torch.no_grad():
        output = theirs.get_base_model().double()(input_ids=ids, token_type_ids=ones, attention_mask=ones)
    torch.testing.assert_close(ours, torch.stack([output.start_logits, output.end_logits]))
