"""train.py from the command line to its files, on a tiny model."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, checkpoint_of, flags, read, read_log, sigterm_at
from safetensors.torch import load_file, save_file

import minibert
import squad
import train


def log_losses(folder):
    return [(line["step"], line["loss"]) for line in read_log(folder) if "loss" in line]


def test_a_run_leaves_every_file(run):
    assert {p.name for p in run.iterdir()} == {
        "config.json", "log.jsonl", "metrics.json", "predictions.json", "nbest_predictions.json", "null_odds.json",
        "adapter", "checkpoint", "timing.jsonl",
    }  # fmt: skip
    qa = read(run / "adapter" / "qa.json")
    assert qa["null_threshold"] == read(run / "metrics.json")["threshold"]
    assert (qa["max_length"], qa["window_overlap"]) == (40, 8)
    assert read(run / "config.json")["learning_rate"] == 0.02


def test_written_predictions_score_what_metrics_say(run, tiny):
    examples = squad.read_examples(tiny / "squad.json")
    metrics = read(run / "metrics.json")
    answers = read(run / "predictions.json")
    official = squad.official_metrics(examples, answers)
    assert {k: metrics[k] for k in official} == official
    odds, nbest = read(run / "null_odds.json"), read(run / "nbest_predictions.json")
    for example in examples:
        best = next(entry for entry in nbest[example.id] if entry["text"])
        expected = "" if odds[example.id] > metrics["threshold"] else best["text"]
        assert answers[example.id] == expected
        assert example.context[best["start"] : best["end"]] == best["text"]
        assert sum(entry["probability"] for entry in nbest[example.id]) == pytest.approx(1)


def test_training_learns(run):
    losses = [loss for _, loss in log_losses(run)]
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_losses(run, tiny, tmp_path):
    again = flags(tiny, tmp_path / "again", "--epochs", "3", "--learning-rate", "0.02")
    assert train.main(again) == 0
    assert log_losses(tmp_path / "again") == log_losses(run)
    assert train.main([*again, "--seed", "1", "--output", str(tmp_path / "other")]) == 0
    assert log_losses(tmp_path / "other") != log_losses(run)


def test_nothing_is_dropped_in_an_evaluation(tiny, tmp_path):
    folder = tmp_path / "run"
    dropouts = ("--dropout", "0.5", "--lora-dropout", "0.5")
    assert train.main(flags(tiny, folder, "--epochs", "1", "--learning-rate", "0.02", *dropouts)) == 0
    config = read(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(config | {"dropout": 0.0, "lora_dropout": 0.0}))
    assert train.main(["--evaluate", str(folder)]) == 0
    odds, again = read(folder / "null_odds.json"), read(folder / "evaluation" / "null_odds.json")
    assert again == pytest.approx(odds, abs=1e-4)


def test_evaluate_gives_the_runs_figures_without_touching_them(run, tmp_path, capsys):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert train.main(["--evaluate", str(run), "--output", str(tmp_path / "again")]) == 0
    assert "the run's own threshold" in capsys.readouterr().out
    again, first = read(tmp_path / "again" / "metrics.json"), read(run / "metrics.json")
    assert again["threshold"] == first["threshold"]
    assert again["f1"] == pytest.approx(first["f1"])
    assert read(tmp_path / "again" / "predictions.json") == read(run / "predictions.json")
    assert all(p.read_bytes() == content for p, content in before.items())


@pytest.mark.parametrize("dropout", ["0.0", "0.2"])
def test_resuming_equals_never_stopping(tiny, tmp_path, dropout):
    options = ("--epochs", "4", "--dropout", dropout, "--lora-dropout", dropout, "--learning-rate", "0.02")
    assert train.main(flags(tiny, tmp_path / "whole", *options)) == 0

    with sigterm_at(17) as steps:  # in the middle of the second epoch of 12 steps
        assert train.main(flags(tiny, tmp_path / "cut", *options)) == 128 + signal.SIGTERM
    assert len(steps) == 17  # the step under way was finished
    assert train.main(["--resume", str(tmp_path / "cut")]) == 0

    def adapter(name):
        return load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")

    for key, tensor in adapter("whole").items():
        assert torch.equal(tensor, adapter("cut")[key]), key
    assert read(tmp_path / "whole" / "metrics.json") == read(tmp_path / "cut" / "metrics.json")


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(tiny, tmp_path):
    command = [sys.executable, "train.py", *flags(tiny, tmp_path / "run", "--epochs", "100000")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    waited = time.monotonic()
    try:
        while not log.exists() and process.poll() is None and time.monotonic() - waited < 120:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    finally:  # it would train on for hours
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert f"continue with: python train.py --resume {tmp_path / 'run'}" in stderr
    assert "Traceback" not in stderr
    assert checkpoint_of(tmp_path / "run")["step"] > 0


def test_rank_zero_trains_every_weight(tiny, tmp_path):
    out = tmp_path / "full"
    assert train.main(flags(tiny, out, "--lora-rank", "0", "--epochs", "1")) == 0
    before, after = minibert.load_pretrained(tiny).state_dict(), minibert.load_pretrained(out / "model").state_dict()
    unchanged = {key for key in before if torch.equal(before[key], after[key])}
    # adding a constant to every key shifts all of a query's scores alike: softmax does not see it
    assert unchanged <= {f"bert.layers.{i}.key.bias" for i in range(2)}
    assert train.main(["--evaluate", str(out)]) == 0


def test_a_run_of_all_weights_is_evaluated_without_the_model_that_it_began_with(tiny, tmp_path):
    """With its own tokenizer; and when it has lost its head, a random one is no substitute."""
    base, out = tmp_path / "base", tmp_path / "full"
    shutil.copytree(tiny, base)
    more = ("--model", str(base), "--lora-rank", "0", "--epochs", "1")
    assert train.main(flags(tiny, out, *more)) == 0
    shutil.rmtree(base)
    assert train.main(["--evaluate", str(out)]) == 0
    assert read(out / "evaluation" / "predictions.json") == read(out / "predictions.json")
    weights = out / "model" / "model.safetensors"
    state = load_file(weights)
    save_file({name: tensor for name, tensor in state.items() if "qa_outputs" not in name}, weights, {"format": "pt"})
    with pytest.raises(minibert.NoHeadError):
        train.main(["--evaluate", str(out)])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs_and_stores_adapters_in_float32(tiny, tmp_path, precision):
    assert train.main(flags(tiny, tmp_path / "run", "--epochs", "1", "--precision", precision)) == 0
    state = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_evaluation_between_epochs(tiny, tmp_path):
    assert train.main(flags(tiny, tmp_path / "run", "--epochs", "1", "--eval-every", "5")) == 0
    assert [line["step"] for line in read_log(tmp_path / "run") if "f1" in line] == [5, 10, 12]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ here")
def test_compiled_gives_the_same_losses(tiny, tmp_path):
    recipe = ("--epochs", "1", "--learning-rate", "0.001")
    assert train.main(flags(tiny, tmp_path / "plain", *recipe)) == 0
    # in a process of its own: torch itself uses what it calls deprecated, and here warnings are errors
    command = [sys.executable, "train.py", *flags(tiny, tmp_path / "compiled", *recipe, "--compile")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, compiled = log_losses(tmp_path / "plain"), log_losses(tmp_path / "compiled")
    assert [loss for _, loss in compiled] == pytest.approx([loss for _, loss in plain], rel=1e-3)
