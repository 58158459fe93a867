"""minibert.qa.load: what is read from where, in which precision, and that the parts fit together."""

import json
import shutil

import pytest
import torch
from helpers import read

import minibert
import minihub
import minihub.hub
from minibert.qa import load_model, load_reader
from minibert.qa.__main__ import main


def test_the_head_of_a_reader_in_16_bits_stays_in_32(run, exported, inputs):
    """Logits in bfloat16 would tie where they should not."""
    for source in (run, exported):
        reader = load_reader(source, device="cpu", precision="bf16")
        assert {p.dtype for p in reader.model.qa_outputs.parameters()} == {torch.float32}
        assert {p.dtype for p in reader.model.bert.parameters()} == {torch.bfloat16}
        with torch.no_grad():
            assert {logits.dtype for logits in reader.model(*inputs)} == {torch.float32}


@pytest.fixture
def asked(monkeypatch, exported):
    """A hub whose every model is the exported one -> the revisions that it was asked for."""
    revisions = []
    monkeypatch.setattr(minihub.hub, "_download", lambda name, revision: revisions.append(revision) or exported)
    return revisions


def test_a_checkpoint_is_read_at_the_revision_asked_for(asked, tmp_path):
    load_model("some/model", "v7")
    load_reader("some/model", "v7", device="cpu")
    assert main(["--model", "some/model", "--revision", "v7", "--export", str(tmp_path / "out")]) == 0
    (tmp_path / "text.txt").write_text("vin is a mistborn")
    question = ("--context", str(tmp_path / "text.txt"), "--question", "who is vin")
    assert main(["--model", "some/model", "--revision", "v7", *question]) == 0
    assert set(asked) == {"v7"}
    assert len(asked) == 4 * 2  # weights and tokenizer


def test_an_adapters_base_is_read_at_its_own_revision_or_the_one_asked_for(run, asked, tmp_path):
    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    config = read(adapter / "adapter_config.json") | {"base_model_name_or_path": "some/model", "revision": "v1"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    load_model(adapter)
    load_model(adapter, "v7")
    assert asked == ["v1", "v1", "v7", "v7"]


def test_parts_that_do_not_fit_are_named(run, exported, tmp_path):
    with pytest.raises(minihub.CheckpointError, match="windows of 65 tokens, but this model has 64 positions"):
        load_reader(run, device="cpu", max_length=65)
    other = shutil.copytree(exported, tmp_path / "other")
    tokenizer = minibert.load_tokenizer(other)
    tokenizer.add_tokens(["mistborns"])  # one more than the model has embeddings for
    tokenizer.save(str(other / "tokenizer.json"))
    with pytest.raises(minihub.CheckpointError, match="they are not from the same checkpoint"):
        load_reader(other, device="cpu")
