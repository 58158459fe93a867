"""train.py from the command line to its files, on a tiny model; and the arithmetic of its step."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, flags, read_log, sigterm_at
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import lora
import minibert
import squad
import train
from options import parse_options

ROOT = Path(__file__).parent.parent


def read(path):
    return json.loads(Path(path).read_text())


def checkpoint_of(folder):
    """What the newest checkpoint of a run says of its progress."""
    with safe_open(max((folder / "checkpoint").glob("*.safetensors")), framework="pt") as file:
        return json.loads(json.loads(file.metadata()["checkpoint"])["state"])["progress"]


def log_losses(folder):
    return [(line["step"], line["loss"]) for line in read_log(folder) if "loss" in line]


# ------------------------------------------------------------------------------------- a whole run


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


def test_evaluate_gives_the_runs_figures_without_touching_them(run, tiny, capsys):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert train.main(["--evaluate", str(run)]) == 0
    assert "the run's own threshold" in capsys.readouterr().out
    again, first = read(run / "evaluation" / "metrics.json"), read(run / "metrics.json")
    assert again["threshold"] == first["threshold"]
    assert again["f1"] == pytest.approx(first["f1"])
    assert read(run / "evaluation" / "predictions.json") == read(run / "predictions.json")
    assert all(p.read_bytes() == content for p, content in before.items())


@pytest.mark.parametrize("dropout", ["0.0", "0.2"])
def test_resuming_equals_never_stopping(tiny, tmp_path, dropout):
    options = ("--epochs", "4", "--dropout", dropout, "--lora-dropout", dropout, "--learning-rate", "0.02")
    assert train.main(flags(tiny, tmp_path / "whole", *options)) == 0

    with sigterm_at(9) as steps:  # in the middle of the second epoch
        assert train.main(flags(tiny, tmp_path / "cut", *options)) == 128 + signal.SIGTERM
    assert len(steps) == 9  # the step under way was finished
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
    while not log.exists() and process.poll() is None and time.monotonic() - waited < 120:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"go on with: python train.py --resume {tmp_path / 'run'}" in stderr
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


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_runs_and_stores_adapters_in_float32(tiny, tmp_path, precision):
    assert train.main(flags(tiny, tmp_path / "run", "--epochs", "1", "--precision", precision)) == 0
    state = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_evaluation_between_epochs(tiny, tmp_path):
    assert train.main(flags(tiny, tmp_path / "run", "--epochs", "1", "--eval-every", "5")) == 0
    assert [line["step"] for line in read_log(tmp_path / "run") if "f1" in line] == [5, 10, 12]


# ----------------------------------------------------------------------------------------- the step


def make_run(tiny, tmp_path, *more):
    """A Run and its data, as main() makes them."""
    options = parse_options(flags(tiny, tmp_path, *more), "").options
    torch.manual_seed(options.seed)
    tokenizer = minibert.load_tokenizer(tiny)
    data = train.load_data(options, "train", tokenizer)
    model = train.prepare_model(options)
    alone, cpu = minibert.Processes(), torch.device("cpu")
    return train.Run(options, tmp_path, model.train(), cpu, torch.float32, data, tokenizer, alone), data


def gradients_of_step(run, data, rows, model=None):
    """The gradients that one training_step hands to the optimizer, and what it returns; model: as it takes it."""
    seen = {}
    optimizer = minibert.make_optimizer(run.model, 0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})
    )
    loss, norm = train.training_step(run, model or run.model, data, rows, optimizer, scaler, 1e-3)
    return seen, (float(loss), float(norm))


def test_accumulating_4_x_2_equals_1_x_8(tiny, tmp_path):
    rows = np.arange(8)
    whole, result = gradients_of_step(*make_run(tiny, tmp_path, "--batch-size", "8"), rows)
    parts, again = gradients_of_step(*make_run(tiny, tmp_path, "--batch-size", "2", "--accumulate", "4"), rows)
    assert result == pytest.approx(again, rel=1e-5)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_a_short_last_batch_weighs_each_window_alike(tiny, tmp_path):
    rows = np.arange(7)  # 4 + 3
    parts, _ = gradients_of_step(*make_run(tiny, tmp_path, "--batch-size", "4", "--accumulate", "2"), rows)
    whole, _ = gradients_of_step(*make_run(tiny, tmp_path, "--batch-size", "7"), rows)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_once_and_after_unscaling(tiny, tmp_path):
    run, data = make_run(tiny, tmp_path, "--max-grad-norm", "0.001", "--batch-size", "2", "--accumulate", "4")
    seen = {}
    optimizer = minibert.make_optimizer(run.model, 0.0)
    optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    _, norm = train.training_step(run, run.model, data, np.arange(8), optimizer, scaler, 1e-3)
    total = torch.stack([g.norm() for g in seen.values()]).norm().item()
    assert total == pytest.approx(0.001, rel=1e-3)  # clipped scaled gradients would be 1024 times smaller
    _, plain = gradients_of_step(*make_run(tiny, tmp_path, "--max-grad-norm", "1e9"), np.arange(8))
    assert float(norm) == pytest.approx(plain[1], rel=1e-4)  # the norm reported is the true, unclipped one


class Waits(TorchDispatchMode):
    """Notes every operation that brings a value from the device to Python, which on a GPU waits for all before it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.seen.append(function)
        return function(*args, **(kwargs or {}))


def test_the_step_waits_for_no_device(tiny, tmp_path):
    run, data = make_run(tiny, tmp_path, "--dropout", "0.1")
    optimizer = minibert.make_optimizer(run.model, 0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with Waits() as waits:
        loss, _ = train.training_step(run, run.model, data, np.arange(8), optimizer, scaler, 1e-3)
        assert waits.seen == [torch.ops.aten._local_scalar_dense.default] * len(optimizer.state)  # AdamW's own counters
        float(loss)
    assert len(waits.seen) == len(optimizer.state) + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_step_on_a_gpu_does_not_synchronise(tiny, tmp_path):
    run, data = make_run(tiny, tmp_path)
    run = dataclasses.replace(run, device=torch.device("cuda"), model=run.model.cuda())
    optimizer, scaler = minibert.make_optimizer(run.model, 0.0), torch.amp.GradScaler("cuda", enabled=False)
    train.training_step(run, run.model, data, np.arange(8), optimizer, scaler, 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train.training_step(run, run.model, data, np.arange(8), optimizer, scaler, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loss_that_is_not_finite_names_step_and_questions(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(squad, "span_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ValueError, match=r"step 1: the loss is nan, .* on the questions (Vin|Paris)\d+, "):
        train.main(flags(tiny, tmp_path / "run"))


def test_schedule_is_a_triangle_that_ends_at_zero():
    rates = [minibert.schedule(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert np.argmax(rates) == 10
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0.0
    assert minibert.schedule(0, 5, 0.0) == 1.0


def test_only_matrices_decay(model):
    lora.add_lora(model, 2, 4)
    decayed, kept = minibert.make_optimizer(model, 0.1).param_groups
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert all(p.dim() == 2 for p in decayed["params"])
    assert [tuple(p.shape) for p in kept["params"]] == [(2,)]


# --------------------------------------------------------------------------------------- the options


def test_flags_are_the_fields_with_their_types():
    command = parse_options(["--lora-rank", "4", "--skip-bad", "--learning-rate", "2e-4"], "")
    options = command.options
    assert (options.lora_rank, options.skip_bad, options.learning_rate) == (4, True, 2e-4)
    assert (command.resume, command.evaluate, command.selfcheck) == (False, None, False)
    assert parse_options(["--no-skip-bad"], "").options.skip_bad is False
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 1


def test_a_folder_that_holds_a_run_is_refused(run, tiny):
    with pytest.raises(ValueError, match="already holds a run"):
        train.main(flags(tiny, run))


def test_resume_takes_the_runs_options_and_flags_win(run):
    command = parse_options(["--resume", str(run), "--epochs", "7"], "")
    options = command.options
    assert (command.resume, options.epochs, options.learning_rate, options.output) == (True, 7, 0.02, str(run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1.5"], "argument --seed: invalid int value: '1.5'"),
        (["--epochs=-1"], "--epochs is -1, expected at least 0"),
        (["--learning-rate", "nan"], "--learning-rate is nan, expected a number above 0"),
        (["--dropout", "1"], "--dropout is 1.0, expected at least 0 and below 1"),
        (["--train", "nowhere.json"], "nowhere.json: no such file"),
        (["--model", "no/such/model"], "no/such/model: no such folder"),
        (["--lora-targets", "quer", "--model", str(GOLDEN / "tiny")], "neither tokenizer.json nor vocab.txt"),
        (["--resume", "nowhere"], "nowhere/config.json: not a run's options"),
        (["--evaluate", "nowhere"], "nowhere/config.json: not a run's options"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(arguments, message, tmp_path):
    arguments = ["--output", str(tmp_path / "out"), *arguments]
    done = subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("train.py: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_resume_that_does_not_fit_leaves_the_run_as_it_was(tiny, tmp_path):
    folder = tmp_path / "run"
    assert train.main(flags(tiny, folder, "--epochs", "1")) == 0
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match="--lora-rank 8 -> 4: cannot change in a run that goes on"):
        train.main(["--resume", str(folder), "--lora-rank", "4"])
    assert (folder / "config.json").read_bytes() == before
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="not a run's options"):
        train.main(["--resume", str(folder)])


@pytest.mark.parametrize(("given", "epochs"), [([], 2), (["--train", "x.json"], 3), (["--epochs", "1"], 1)])
def test_default_epochs(given, epochs):
    assert parse_options(given, "").options.epochs == epochs


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
