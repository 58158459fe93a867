"""minibert.trace: its tensors against transformers', and interventions against the same change made in the weights."""

import pytest
import torch
import torch.nn.functional as F
from helpers import GOLDEN, INPUTS, add_lora
from safetensors.torch import load_file

import lora
import minibert
from minibert import trace

FAMILIES = {"bert": GOLDEN / "tiny"} | {
    name: GOLDEN / "families" / name for name in ("roberta", "xlm-roberta", "distilbert")
}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_hidden_states_and_attentions_equal_those_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    golden = load_file(FAMILIES[name].parent / f"{FAMILIES[name].name}.safetensors")
    model = minibert.load_pretrained(FAMILIES[name])
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(
        FAMILIES[name], attn_implementation="eager"
    ).eval()
    ids, types, mask = (golden[key] for key in INPUTS)
    types = types if name == "bert" else torch.zeros_like(types)
    more = {"token_type_ids": types} if name == "bert" else {}
    with torch.no_grad():
        found = trace(model, ids, types, mask)
        expected = theirs(ids, attention_mask=mask, output_hidden_states=True, output_attentions=True, **more)
    real = mask.bool()
    outputs = [found["embeddings"], *(found[f"layers.{i}.output"] for i in range(len(model.bert.layers)))]
    for ours, other in zip(outputs, expected.hidden_states, strict=True):
        close(ours[real], other[real])
    for i, other in enumerate(expected.attentions):
        rows = found[f"layers.{i}.weights"].transpose(1, 2)[real]  # of real tokens: (n, N, T)
        close(rows, other.transpose(1, 2)[real])
    close(found["start_logits"][real], expected.start_logits[real])


def test_the_tensors_of_a_layer_follow_from_one_another(model, inputs):
    found = trace(model, *inputs)
    layer, at = model.bert.layers[1], lambda part: found[f"layers.1.{part}"]
    assert at("input") is found["layers.0.output"]
    close(at("query").transpose(1, 2).flatten(2), layer.query(at("input")))
    assert at("key").shape == at("value").shape == (3, 3, 7, 5)
    close(at("weights").sum(-1), torch.ones(3, 3, 7))
    assert (at("weights")[2, :, :, 3:] == 0).all()  # padding is attended to by nobody
    close(at("heads"), at("weights") @ at("value"))
    close(at("attention_output"), layer.attention_output(at("heads").transpose(1, 2).flatten(2)))
    close(at("middle"), layer.attention_norm(at("input") + at("attention_output")))
    close(at("mlp"), layer.output(F.gelu(at("intermediate"))))
    close(at("output"), layer.output_norm(at("middle") + at("mlp")))
    start, end = model(*inputs)
    assert torch.equal(found["start_logits"], start) and torch.equal(found["end_logits"], end)
    encoder = trace(model.bert, *inputs)
    assert list(encoder) == [name for name in found if "logits" not in name]


def test_a_switched_off_head_is_one_whose_columns_are_zero(model, inputs):
    scale = torch.ones(2, 3)
    scale[1, 2], scale[0, 0] = 0, 0.5
    found = trace(model, *inputs, head_mask=scale)
    with torch.no_grad():
        model.bert.layers[1].attention_output.weight[:, 10:15] = 0
        model.bert.layers[0].attention_output.weight[:, :5] *= 0.5
    close(found["start_logits"], model(*inputs)[0])


def test_a_replaced_tensor_is_used_from_there_on(model, inputs):
    plain = trace(model, *inputs)
    for name in [name for name in plain if "logits" not in name]:
        changed = trace(model, *inputs, replace={name: torch.zeros_like})
        names = list(plain)
        assert (changed[name] == 0).all()
        for before in names[: names.index(name)]:
            assert torch.equal(changed[before], plain[before]), (name, before)
        assert not torch.equal(changed["start_logits"], plain["start_logits"]), name
    uniform = {"layers.0.weights": lambda w: torch.full_like(w, 1 / w.size(-1))}
    found = trace(model, *inputs, replace=uniform)
    close(found["layers.0.heads"], found["layers.0.value"].mean(2, keepdim=True).expand(3, 3, 7, 5))


def test_gradients_flow_through_what_is_recorded_and_replaced(model, inputs):
    found = trace(model, *inputs)
    (slope,) = torch.autograd.grad(found["start_logits"][0, 2], found["layers.1.input"])
    point = found["layers.1.input"].detach()
    with torch.no_grad():  # a central difference
        step = 1e-2 * slope / slope.norm()
        up, down = (
            trace(model, *inputs, replace={"layers.1.input": lambda x, s=s: point + s * step})["start_logits"][0, 2]
            for s in (1, -1)
        )
    assert float(up - down) / 2e-2 == pytest.approx(float(slope.norm()), rel=1e-2)


def test_weights_have_gradients_where_they_are_replaced_by_a_copy(model, inputs):
    beside = trace(model, *inputs)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(beside["start_logits"][0, 2], beside["layers.1.weights"])
    found = trace(model, *inputs, replace={"layers.1.weights": lambda w: w.clone()})
    close(found["start_logits"], beside["start_logits"])
    (slope,) = torch.autograd.grad(found["start_logits"][0, 2], found["layers.1.weights"])
    # heads = weights v, so the slope of a weight is that of the head's row times the value that it takes
    again = trace(model, *inputs)
    (of_heads,) = torch.autograd.grad(again["start_logits"][0, 2], again["layers.1.heads"])
    close(slope, of_heads @ again["layers.1.value"].transpose(2, 3))


@pytest.mark.parametrize("merged", [False, True])
def test_the_update_of_an_adapter_is_what_it_adds(model, inputs, merged):
    add_lora(model, rank=2, alpha=4)
    for _, layer in lora.lora_layers(model):
        torch.nn.init.normal_(layer.lora_B)
    if merged:
        lora.merge(model)
    found = trace(model, *inputs)
    adapted = {name for name, _ in lora.lora_layers(model.bert)}
    assert {name.removesuffix(".update") for name in found if name.endswith(".update")} == adapted
    without = trace(model, *inputs, replace={f"{name}.update": torch.zeros_like for name in adapted})
    lora.unmerge(model)
    for _, layer in lora.lora_layers(model):
        torch.nn.init.zeros_(layer.lora_B)
    close(without["start_logits"], model(*inputs)[0])


def test_the_model_is_left_as_it_was_also_after_an_error(model, inputs):
    before = model(*inputs)[0]
    with pytest.raises(
        ValueError, match=r"no tensor is called layers\.7\.input; there are embeddings, layers\.0\.input, "
    ):
        trace(model, *inputs, replace={"layers.7.input": torch.zeros_like})
    with pytest.raises(ValueError, match=r"head_mask has the shape \(3, 2\), expected \(2, 3\)"):
        trace(model, *inputs, head_mask=torch.ones(3, 2))

    def fails(x):
        raise RuntimeError("in a replacement")

    with pytest.raises(RuntimeError, match="in a replacement"):
        trace(model, *inputs, replace={"layers.1.query": fails})
    assert hooks(model) == 0
    assert torch.equal(model(*inputs)[0], before)
