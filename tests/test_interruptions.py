"""Runs that are killed, stopped, damaged or started twice: what was saved stays good, and they end as if left alone."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, checkpoint_of, everything, flags, read, read_log, sigterm_at

import squad
import train
from minihub import write_json

KILLER = ROOT / "tests" / "kill_script.py"


def start(*arguments, dies_at=0):
    command = [sys.executable, str(KILLER), str(dies_at), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def one_life(folder, first, rng):
    """Start or resume the run and kill it: at a random operation on files, or at any moment. Returns how it ended."""
    arguments = ["--resume", str(folder)] if (folder / "config.json").exists() else first
    if rng.random() < 0.5:
        process = start(*arguments, dies_at=rng.randint(1, 60))
        process.communicate(timeout=300)
        return process.returncode
    log, process = folder / "timing.jsonl", start(*arguments)
    lines, waited = log.stat().st_size if log.exists() else 0, time.monotonic()
    while process.poll() is None and time.monotonic() - waited < 120:
        if log.exists() and log.stat().st_size > lines:  # it trains
            break
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5))
    process.kill()
    process.communicate(timeout=300)
    return process.returncode


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_random_and_resumed_equals_left_alone_byte_for_byte(tiny, tmp_path, precision, long):
    kills = 25 if long else 3
    rng = random.Random(kills)
    recipe = ("--epochs", str(10 * kills), "--checkpoint-every", "5", "--lora-dropout", "0.1", "--log-every", "7")
    recipe = (*recipe, "--precision", precision)
    assert train.main(flags(tiny, tmp_path / "alone", *recipe)) == 0
    killed, first = 0, flags(tiny, tmp_path / "killed", *recipe)
    while killed < kills:
        status = one_life(tmp_path / "killed", first, rng)
        if status == 0:  # it came to its end before the moment chosen: once more from the start
            shutil.rmtree(tmp_path / "killed")
        else:
            assert status == -signal.SIGKILL
            killed += 1
    assert train.main(["--resume", str(tmp_path / "killed")]) == 0
    alone, again = everything(tmp_path / "alone"), everything(tmp_path / "killed")
    assert alone.keys() == again.keys()
    assert {name for name in alone if alone[name] != again[name]} == set()
    assert list(tmp_path.rglob("*.part")) == []


def test_resuming_a_finished_run_changes_nothing(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    before = everything(tmp_path / "run")
    assert train.main(["--resume", str(tmp_path / "run")]) == 0
    assert everything(tmp_path / "run") == before


def test_a_signal_in_an_evaluation_stops_the_run_after_it(tiny, tmp_path, monkeypatch, capsys):
    recipe = ("--epochs", "3", "--learning-rate", "0.02")
    assert train.main(flags(tiny, tmp_path / "whole", *recipe)) == 0

    def interrupted(*args, original=squad.predict_windows):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(squad, "predict_windows", interrupted)
        assert train.main(flags(tiny, tmp_path / "cut", *recipe)) == 130
    assert f"continue with: python train.py --resume {tmp_path / 'cut'}" in capsys.readouterr().err
    saved = checkpoint_of(tmp_path / "cut")
    assert (saved["step"], saved["evaluated"]) == (12, 12)
    assert (tmp_path / "cut" / "metrics.json").exists()
    assert train.main(["--resume", str(tmp_path / "cut")]) == 0
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")


def test_a_second_signal_ends_at_once(tiny, tmp_path):
    code = (
        "import os, signal, sys, train\n"
        "def stuck(*_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    raise SystemExit('survived')\n"
        "train.training_step = stuck\n"
        "train.main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, *flags(tiny, tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM


def test_a_damaged_newest_checkpoint_costs_its_steps_only(tiny, tmp_path):
    recipe = ("--epochs", "2", "--checkpoint-every", "5", "--keep", "3")
    assert train.main(flags(tiny, tmp_path / "whole", *recipe)) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    files = sorted((tmp_path / "damaged" / "checkpoint").iterdir())
    assert [int(path.stem) for path in files] == [15, 20, 24]
    files[-1].write_bytes(files[-1].read_bytes()[:-1])
    command = [sys.executable, "train.py", "--resume", str(tmp_path / "damaged")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{files[-1]} is damaged" in done.stderr
    after = everything(tmp_path / "damaged")
    assert after.pop("checkpoint/00000024.safetensors.damaged")
    assert after == everything(tmp_path / "whole")


def test_a_damaged_checkpoint_does_not_count_among_those_kept(tiny, tmp_path):
    recipe = ("--epochs", "2", "--checkpoint-every", "5", "--keep", "2")
    assert train.main(flags(tiny, tmp_path / "run", *recipe)) == 0
    files = sorted((tmp_path / "run" / "checkpoint").iterdir())
    assert [int(path.stem) for path in files] == [20, 24]
    files[-1].write_bytes(b"")
    more = ("--keep", "1", "--checkpoint-every", "1")
    assert train.main(["--resume", str(tmp_path / "run"), *more]) == 0
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir())
    assert kept == ["00000024.safetensors", "00000024.safetensors.damaged"]
    assert checkpoint_of(tmp_path / "run")["step"] == 24


def losses(folder):
    return [line["loss"] for line in read_log(folder) if "loss" in line]


def changed_on_the_way(tiny, tmp_path, *changes):
    """The losses of a run of 3 epochs, and those of one that is stopped after 13 steps and resumed with each change."""
    assert train.main(flags(tiny, tmp_path / "whole", "--epochs", "3")) == 0
    with sigterm_at(13):
        assert train.main(flags(tiny, tmp_path / "cut", "--epochs", "3")) == 143
    for change in changes[:-1]:
        with sigterm_at(8):
            assert train.main(["--resume", str(tmp_path / "cut"), *change]) == 143
    assert train.main(["--resume", str(tmp_path / "cut"), *changes[-1]]) == 0
    return losses(tmp_path / "whole"), losses(tmp_path / "cut")


def test_precision_may_change_on_the_way(tiny, tmp_path):
    whole, cut = changed_on_the_way(tiny, tmp_path, ("--precision", "fp16"), ("--precision", "bf16"))
    assert cut == pytest.approx(whole, rel=0.02)
    assert cut[:2] == whole[:2]  # the first ten steps
    assert all(a != b for a, b in zip(cut[2:], whole[2:], strict=True))  # the precision did change


def test_dropout_may_change_on_the_way(tiny, tmp_path):
    whole, cut = changed_on_the_way(tiny, tmp_path, ("--dropout", "0.1", "--lora-dropout", "0.1"))
    assert cut[:2] == whole[:2]
    assert all(a != b for a, b in zip(cut[2:], whole[2:], strict=True))


def test_a_resumed_run_continues_in_its_own_folder(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    with pytest.raises(ValueError, match="a resumed run continues in its own folder"):
        train.main(["--resume", str(tmp_path / "run"), "--output", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()
    monkeypatch.chdir(tmp_path / "run")
    assert train.main(["--resume", "."]) == 0


def test_resuming_says_what_changed(tiny, tmp_path, capsys):
    assert train.main(flags(tiny, tmp_path / "run", "--epochs", "1")) == 0
    assert train.main(["--resume", str(tmp_path / "run"), "--epochs", "2", "--learning-rate", "5e-4"]) == 0
    assert "changed since the run was started: --epochs 1 -> 2, --learning-rate 0.002 -> 0.0005" in (
        capsys.readouterr().err
    )
    assert read(tmp_path / "run" / "config.json")["epochs"] == 2
    assert checkpoint_of(tmp_path / "run")["step"] == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--lora-rank", "4"), "--lora-rank 8 -> 4: cannot change in a resumed run"),
        (("--lora-targets", "attention"), "--lora-targets all -> attention: cannot change"),
        (("--seed", "7", "--batch-size", "2"), "--seed 0 -> 7, --batch-size 4 -> 2: cannot change"),
        (("--train", "other.json"), "this run was started with another data"),
        (("--model", "other"), "this run was started with another model"),
    ],
)
def test_resuming_refuses_what_would_make_it_meaningless(run, tiny, tmp_path, monkeypatch, change, message):
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(tiny, tmp_path / "other")
    model = train.minibert.load_pretrained(tiny)
    with torch.no_grad():
        model.bert.layers[0].output.weight[0, 0] += 1
    train.minibert.save_pretrained(model, tmp_path / "other")
    data = read(tiny / "squad.json")
    data["data"][0]["paragraphs"][0]["qas"][0]["question"] = "who is kelsier"
    write_json(tmp_path / "other.json", data)
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path / "run")
    with pytest.raises(ValueError) as error:
        train.main(["--resume", str(tmp_path / "run"), *change])
    assert message in str(error.value)
    assert everything(tmp_path / "run") == before


def test_a_full_disk_is_one_line_and_loses_nothing(tiny, tmp_path):
    """A limit on the size of files that its log and results keep to, and its checkpoints do not."""
    resource = pytest.importorskip("resource")
    assert train.main(flags(tiny, tmp_path / "run", "--epochs", "1", "--lora-rank", "1")) == 0
    size = max(path.stat().st_size for path in (tmp_path / "run" / "checkpoint").iterdir())
    before = everything(tmp_path / "run")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size - 100}, {resource.RLIM_INFINITY}))"
    code = f"{limit}; import sys, train, minirun; minirun.run_command(lambda: train.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--resume", str(tmp_path / "run"), "--epochs", "2"]
    done = subprocess.run([*command, "--checkpoint-every", "3"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        f"{tmp_path / 'run' / 'checkpoint'}: cannot be written (Error while serializing: I/O error: File too large "
        "(os error 27)); the files written before are unchanged"
    )
    assert "Traceback" not in done.stderr
    after = everything(tmp_path / "run")
    assert after.pop("config.json") == before.pop("config.json") | {"epochs": 2, "checkpoint_every": "3"}
    assert after.pop("log.jsonl").startswith(before.pop("log.jsonl"))  # what came after is taken back by the next start
    assert after == before
    assert train.main(["--resume", str(tmp_path / "run"), "--epochs", "2"]) == 0


def test_a_second_run_into_one_folder_is_refused(tiny, tmp_path):
    process = start(*flags(tiny, tmp_path / "run", "--epochs", "100000"))
    waited = time.monotonic()
    try:
        while not (tmp_path / "run" / "log.jsonl").exists() and time.monotonic() - waited < 120:
            assert process.poll() is None
            time.sleep(0.05)
        for arguments in (flags(tiny, tmp_path / "run"), ["--resume", str(tmp_path / "run")]):
            with pytest.raises(ValueError, match="another process is writing a run here"):
                train.main(arguments)
        assert process.poll() is None
    finally:  # it would train on for hours
        process.kill()
        process.communicate()


def test_out_of_memory_names_the_batch_and_what_to_lower(tiny, tmp_path, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(squad, "span_loss", too_much)
    message = r"out of memory on a batch of 4 windows of \d+ tokens: lower --batch-size \(raise .*\) or --max-length"
    with pytest.raises(ValueError, match=message):
        train.main(flags(tiny, tmp_path / "run"))
