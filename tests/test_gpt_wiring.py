"""Every option of train_gpt.py reaches what it is for, in training, in an evaluation and in answering."""

import json
import shutil

import pytest
import torch
from gpt import flags, make_run
from helpers import example, read, read_log
from safetensors.torch import load_file

import lora
import minigpt
import minigpt.small
import minirun
import train_gpt
from minigpt.qa import load_writer
from minigpt.qa.writer import Writer
from squad.prompts import answer_loss


def test_decay_and_warm_up_reach_the_optimizer(gpt_text, tiny, tmp_path, monkeypatch):
    made, original = [], minirun.make_optimizer
    monkeypatch.setattr(minirun, "make_optimizer", lambda *args: made.append(args[1:]) or original(*args))
    more = ("--weight-decay", "0.25", "--warmup", "0.5", "--learning-rate", "0.02", "--epochs", "1")
    assert train_gpt.main(flags(tiny, tmp_path / "run", "--model", str(gpt_text / "model"), *more)) == 0
    assert made == [(0.25,)]
    rates = [line["lr"] for line in read_log(tmp_path / "run") if "lr" in line]
    assert rates == pytest.approx([0.02 * minirun.schedule(step, len(rates), 0.5) for step in range(len(rates))])


def test_dropout_is_that_of_the_model_and_lora_dropout_that_of_the_updates(gpt_text, tiny, tmp_path):
    run = make_run(gpt_text, tiny, tmp_path, "--dropout", "0.25", "--lora-dropout", "0.5")
    config = run.model.config
    assert {config.resid_pdrop, config.embd_pdrop, config.attn_pdrop} == {0.25}
    assert {layer.dropout.p for _, layer in lora.lora_layers(run.model)} == {0.5}


def test_a_small_model_has_the_positions_and_the_dropout_of_the_command(tiny, tmp_path):
    command = flags(tiny, tmp_path / "run", "--learn", "text", "--max-length", "24", "--dropout", "0.25")
    options = minirun.parse_command(command, train_gpt.Options, "train_gpt.py", "", ()).options.resolved()
    model, _ = train_gpt.load(options, None, [example()])
    assert (model.config.n_positions, model.config.resid_pdrop) == (24, 0.25)


def test_as_many_questions_as_asked_for_all_with_an_answer(gpt_text, tiny, tmp_path):
    sizes = ("--max-train-examples", "4", "--max-dev-examples", "3", "--answerable-only")
    run = make_run(gpt_text, tiny, tmp_path, *sizes)
    assert (len(run.train), len(run.dev), len(run.asked), len(run.examples)) == (4, 3, 3, 3)
    assert all(e.answers for e in run.examples)
    assert (run.train.answer_tokens > 1).all()  # one without an answer would be eos alone


def test_nothing_is_dropped_in_an_evaluation(gpt_text, tiny, tmp_path):
    """The loss is that of the saved adapter, whose base is loaded without dropout."""
    out, dropouts = tmp_path / "run", ("--dropout", "0.5", "--lora-dropout", "0.5")
    more = ("--model", str(gpt_text / "model"), "--epochs", "1", "--learning-rate", "0.01", *dropouts)
    assert train_gpt.main(flags(tiny, out, *more)) == 0
    assert train_gpt.main(["--evaluate", str(out)]) == 0
    loss, again = (read(folder / "metrics.json")["loss"] for folder in (out, out / "evaluation"))
    assert loss == pytest.approx(again, rel=1e-4)


def test_a_phrase_of_silence_is_no_answer_in_an_evaluation_and_to_a_writer(
    gpt_text, gpt_answers, tiny, tmp_path, monkeypatch
):
    run = make_run(gpt_text, tiny, tmp_path, "--silence", "unanswerable")
    row = run.tokenizer.encode(" unanswerable").ids
    monkeypatch.setattr(minigpt, "generate", lambda model, ids, *_, **__: torch.tensor([row] * len(ids)))
    metrics = train_gpt.evaluate(run)
    assert (metrics["NoAns_exact"], metrics["HasAns_exact"]) == (100, 0)
    assert Writer(run.model, run.tokenizer, 140, 8, "unanswerable")("who is vin", "vin") == ""
    assert Writer(run.model, run.tokenizer, 140, 8)("who is vin", "vin") == "unanswerable"
    copy = shutil.copytree(gpt_answers, tmp_path / "copy")
    (copy / "config.json").write_text(json.dumps(read(copy / "config.json") | {"silence": "unanswerable"}))
    assert load_writer(copy).silence == "unanswerable"


def test_always_silent_is_scored_beside_the_model(gpt_answers):
    """8 of the 24 questions have no answer."""
    empty = read(gpt_answers / "metrics.json")["always_empty"]
    assert empty["exact"] == empty["f1"] == pytest.approx(100 * 8 / 24)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_training_in_16_bits_keeps_what_trains_in_32(precision, gpt_text, tiny, tmp_path, monkeypatch):
    scalers, original = [], torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *a, **k: scalers.append(k["enabled"]) or original(*a, **k))
    more = ("--model", str(gpt_text / "model"), "--epochs", "1", "--learning-rate", "0.001")
    losses = {}
    for name in ("fp32", precision):
        assert train_gpt.main(flags(tiny, tmp_path / name, *more, "--precision", name)) == 0
        losses[name] = [line["loss"] for line in read_log(tmp_path / name) if "loss" in line]
    assert scalers == [False, precision == "fp16"]
    assert losses[precision] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses[precision] != losses["fp32"]
    state = load_file(tmp_path / precision / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    writer = load_writer(tmp_path / precision, device="cpu", precision=precision)
    assert writer.model.transformer.wte.weight.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert isinstance(writer("who is vin", "vin is a mistborn"), str)


def test_the_loss_is_computed_in_32_bits():
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False).bfloat16()
    x, labels = torch.randn(3, 7, 6).bfloat16(), torch.randint(0, 11, (3, 7))
    loss = answer_loss(x, labels, head)
    logits = head(x[:, :-1]).float()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_a_base_given_by_a_relative_path_is_found_from_anywhere(gpt_text, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(gpt_text / "model", "model")
    assert train_gpt.main(flags(tiny, "run", "--model", "model", "--epochs", "1")) == 0
    config = read(tmp_path / "run" / "adapter" / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(tmp_path / "model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_writer(tmp_path / "run").model.config.n_embd == 24
