"""What a run says of its own numbers, and float16 with its scaler."""

import math
import os
import socket
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, flags, read_log

import minirun
import train
from minibert.qa import __main__ as cli
from minirun.log import RunLog


def log_lines(folder):
    return [line for line in read_log(folder) if "loss" in line]


def test_200_steps_of_float16_stay_finite(tiny, tmp_path):
    recipe = ("--epochs", "17", "--precision", "fp16", "--log-every", "1", "--learning-rate", "0.01")
    assert train.main(flags(tiny, tmp_path / "run", *recipe)) == 0
    lines = log_lines(tmp_path / "run")
    assert len(lines) == 204
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_skipped_steps_are_counted_and_do_not_move_the_schedule(tiny, tmp_path, monkeypatch):
    """A scale so high that the first gradients overflow float16, and halves until they do not."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: scaler(device, init_scale=2.0**30, enabled=enabled)
    )
    recipe = ("--epochs", "4", "--precision", "fp16", "--log-every", "1")
    assert train.main(flags(tiny, tmp_path / "run", *recipe)) == 0
    lines = log_lines(tmp_path / "run")
    skipped = [line["grad_norm"] is None for line in lines]
    assert 5 < sum(skipped) < 30
    assert skipped[0]
    assert not any(skipped[-10:])
    taken = 0
    for line, skip in zip(lines, skipped, strict=True):
        assert line["lr"] == pytest.approx(0.002 * minirun.schedule(taken, 48, 0.05))
        taken += not skip
        assert line["skipped"] == line["step"] - taken


def test_an_adapter_that_does_not_move_is_an_error_that_gives_the_reasons(tiny, tmp_path):
    with pytest.raises(
        ValueError, match=r"every lora_B is still zero after 50 steps at --learning-rate 1e-50: .* too low for float32"
    ):
        train.main(flags(tiny, tmp_path / "run", "--epochs", "5", "--learning-rate", "1e-50"))
    assert train.main(flags(tiny, tmp_path / "other", "--epochs", "5", "--learning-rate", "1e-6")) == 0


def test_a_gradient_that_is_not_finite_ends_the_run_before_a_checkpoint_has_it(tiny, tmp_path, monkeypatch):
    original, steps = train.training_step, []

    def broken(*args):
        steps.append(1)
        loss, norm = original(*args)
        return loss, norm * (math.nan if len(steps) == 8 else 1)

    monkeypatch.setattr(train, "training_step", broken)
    with pytest.raises(
        ValueError,
        match=r"step 8: the loss is [\d.]+, the gradient's norm nan; try .*\. It was on the questions",
    ):
        train.main(flags(tiny, tmp_path / "run", "--checkpoint-every", "1"))
    newest = max(path.name for path in (tmp_path / "run" / "checkpoint").iterdir())
    assert newest == "00000007.safetensors"


def test_spikes_are_counted(tmp_path):
    log = RunLog(tmp_path, every=60)
    for step in range(1, 61):
        log.step(step, 5.0 if step in (3, 55, 58) else 1.0, 4)
    [line] = log_lines(tmp_path)
    assert (line["spikes"], line["loss_max"]) == (2, 5.0)  # the first has too few steps before it to be called one
    assert line["loss"] == pytest.approx(72 / 60)


def test_a_line_has_the_mean_since_the_one_before_it(tmp_path):
    log = RunLog(tmp_path, every=3)
    for step, loss in enumerate((1.0, 2.0, 6.0, 1.0, 1.0, 4.0), 1):
        log.step(step, loss, 4)
    assert [(line["step"], line["loss"], line["loss_max"]) for line in log_lines(tmp_path)] == [(3, 3, 6), (6, 2, 4)]


def test_nothing_reaches_for_the_network(tiny, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError(f"the network was asked for {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert train.main(flags(tiny, tmp_path / "run", "--epochs", "1")) == 0
    assert train.main(["--evaluate", str(tmp_path / "run")]) == 0
    (tmp_path / "text.txt").write_text("vin is a mistborn")
    asked = ["--context", str(tmp_path / "text.txt"), "--question", "who is vin"]
    assert cli.main(["--model", str(tmp_path / "run"), *asked]) == 0


@pytest.mark.parametrize("offline", ["", "1"])
def test_a_hub_name_asks_the_hub_unless_told_not_to(offline, tmp_path):
    """huggingface_hub reads HF_HUB_OFFLINE when it is first imported, so each in a process of its own."""
    code = (
        "import socket, minihub\n"
        "def refuse(*_, **__): print('ASKED'); raise OSError\n"
        "socket.getaddrinfo = socket.create_connection = refuse\n"
        "try: minihub.find_model('google-bert/no-such-model')\n"
        "except minihub.CheckpointError as error: print('hub cannot be reached' in str(error))\n"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": offline,
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        environment.pop(name, None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    lines = done.stdout.split()
    assert lines[-1] == "True", done.stderr
    assert ("ASKED" in lines) == (not offline)
