"""The encoder by itself: built, loaded without a head, its hidden states against transformers' models."""

import inspect

import pytest
import torch
from helpers import GOLDEN, INPUTS
from safetensors.torch import load_file, save_file

import minibert

MODELS = {"bert": GOLDEN / "tiny"} | {
    name: GOLDEN / "families" / name for name in ("roberta", "xlm-roberta", "distilbert")
}


def golden_of(folder):
    return load_file(folder.parent / f"{folder.name}.safetensors")


@pytest.mark.parametrize("name", MODELS)
def test_the_stored_head_on_its_hidden_states_gives_transformers_stored_logits(name):
    golden, encoder = golden_of(MODELS[name]), minibert.load_encoder(MODELS[name])
    head = minibert.load_pretrained(MODELS[name]).qa_outputs
    with torch.no_grad():
        hidden = encoder(*(golden[key] for key in INPUTS))
        logits = head(hidden)
    assert hidden.shape == (*golden["input_ids"].shape, encoder.config.hidden_size)
    real = golden["attention_mask"].bool()
    for k, key in enumerate(("start_logits", "end_logits")):
        torch.testing.assert_close(logits[..., k][real], golden[key][real], rtol=1e-5, atol=2e-5)


def compare_with_transformers(folder, ids, types, mask):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    takes_types = "token_type_ids" in inspect.signature(theirs.forward).parameters
    inputs = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if takes_types else {})
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state
        hidden = minibert.load_encoder(folder)(ids, types, mask)
    torch.testing.assert_close(hidden[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_equal_those_of_transformers_models(name):
    golden = golden_of(MODELS[name])
    types = torch.zeros_like(golden["input_ids"]) if "roberta" in name else golden["token_type_ids"]
    compare_with_transformers(MODELS[name], golden["input_ids"], types, golden["attention_mask"])


@pytest.mark.filterwarnings("ignore")
def test_minilm_hidden_states_equal_transformers(has_minilm):
    import minihub

    ids = torch.randint(1000, 30_000, (3, 17))
    mask = (torch.arange(17) < torch.tensor([[17], [12], [5]])).long()
    compare_with_transformers(minihub.find_model("minilm"), ids, (torch.arange(17) > 8).long().repeat(3, 1), mask)


def test_a_checkpoint_with_or_without_a_head_or_prefix_gives_the_same_encoder(tmp_path, inputs):
    reference = minibert.load_encoder(GOLDEN / "tiny")
    state = load_file(GOLDEN / "tiny" / "model.safetensors")
    bare = {k.removeprefix("bert."): v for k, v in state.items() if not k.startswith("qa_outputs")}
    (tmp_path / "config.json").write_bytes((GOLDEN / "tiny" / "config.json").read_bytes())
    heads = ("qa_outputs.bias", "pooler.dense.weight", "classifier.weight", "classifier.out_proj.bias")
    for tensors in (bare, *(bare | {name: torch.zeros(2)} for name in heads)):
        save_file(tensors, tmp_path / "model.safetensors")
        with torch.no_grad():
            assert torch.equal(minibert.load_encoder(tmp_path)(*inputs), reference(*inputs))
    del bare["encoder.layer.1.output.dense.bias"]
    save_file(bare, tmp_path / "model.safetensors")
    with pytest.raises(minibert.CheckpointError, match=r"missing: bert\.encoder\.layer\.1\.output\.dense\.bias"):
        minibert.load_encoder(tmp_path)


def test_a_new_encoder_has_berts_initialisation(config, inputs):
    """Weights from normal(0, initializer_range), biases 0, norms 1 and 0: by transformers' BertModel the same kinds."""
    from dataclasses import replace

    encoder = minibert.Bert(replace(config, hidden_size=48, intermediate_size=96, vocab_size=200))
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            # the standard deviation of n draws is off by sd / sqrt(2 n); five times that is out of reach
            n = parameter.numel()
            assert abs(parameter.std().item() - 0.5) < 5 * 0.5 / (2 * n) ** 0.5, name
    assert encoder(*inputs).shape == (3, 7, 48)
    assert encoder.training
