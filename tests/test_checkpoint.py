"""Training state to a folder and back; train.py's tests resume whole runs with it."""

import os
import re

import pytest
import torch
from helpers import add_lora

import minibert
import minihub
import minirun
from minihub import CheckpointError
from minirun.checkpoint import load_checkpoint, save_checkpoint


def stepped(model, steps):
    """An optimizer that took a few steps on random gradients."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**7)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return optimizer, scaler


def test_round_trip(model, config, tmp_path):
    add_lora(model, 2, 4)
    optimizer, scaler = stepped(model, 3)
    save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 3})

    other = minibert.BertForQuestionAnswering(config)
    add_lora(other, 2, 4)
    other_optimizer, other_scaler = stepped(other, 0)
    assert load_checkpoint(tmp_path / "c", other, other_optimizer, other_scaler) == {"step": 3}
    assert scaler.state_dict() == other_scaler.state_dict()
    pairs = zip(optimizer.param_groups[0]["params"], other_optimizer.param_groups[0]["params"], strict=True)
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)
        a, b = optimizer.state[ours], other_optimizer.state[theirs]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept(model, tmp_path):
    optimizer, scaler = stepped(model, 1)
    for step in (1, 2, 30):
        save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": step})
    assert names(tmp_path / "c") == ["00000002.safetensors", "00000030.safetensors"]
    assert names(tmp_path) == ["c"]
    assert load_checkpoint(tmp_path / "c", model, optimizer, scaler) == {"step": 30}


DAMAGES = {
    "cut": lambda raw: raw[: len(raw) // 2],
    "empty": lambda raw: b"",
    "a bit of a weight": lambda raw: raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
    "a digit of the progress": lambda raw: re.sub(rb"(step[^0-9]{1,20})2", rb"\g<1>3", raw),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_told_and_the_one_before_is_used(damage, model, tmp_path, caplog):
    optimizer, scaler = stepped(model, 1)
    first = model.qa_outputs.bias.detach().clone()
    for step in (1, 2):
        save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": step})
        with torch.no_grad():
            model.qa_outputs.bias.add_(1)
    newest = tmp_path / "c" / "00000002.safetensors"
    broken = DAMAGES[damage](newest.read_bytes())
    assert broken != newest.read_bytes()
    newest.write_bytes(broken)
    assert load_checkpoint(tmp_path / "c", model, optimizer, scaler) == {"step": 1}
    assert torch.equal(model.qa_outputs.bias, first)
    assert f"{newest} is damaged" in caplog.text
    assert names(tmp_path / "c") == ["00000001.safetensors", "00000002.safetensors.damaged"]
    (tmp_path / "c" / "00000001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no readable checkpoint, all 1 are damaged"):
        load_checkpoint(tmp_path / "c", model, optimizer, scaler)


def test_one_that_another_process_has_set_aside_is_passed_over(model, tmp_path, monkeypatch):
    optimizer, scaler = stepped(model, 1)
    save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 1})
    there = [tmp_path / "c" / "00000002.safetensors", tmp_path / "c" / "00000001.safetensors"]  # listed before
    monkeypatch.setattr("minirun.checkpoint._newest_first", lambda folder: there)
    assert load_checkpoint(tmp_path / "c", model, optimizer, scaler, set_aside=False) == {"step": 1}


def test_one_that_cannot_be_read_is_not_taken_for_damaged(model, tmp_path, monkeypatch):
    optimizer, scaler = stepped(model, 1)
    for step in (1, 2):
        save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": step})

    def fails(path):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr("minirun.checkpoint._read", fails)
        load_checkpoint(tmp_path / "c", model, optimizer, scaler)
    assert names(tmp_path / "c") == ["00000001.safetensors", "00000002.safetensors"]
    assert load_checkpoint(tmp_path / "c", model, optimizer, scaler) == {"step": 2}


def test_a_full_disk_leaves_the_one_before(model, tmp_path):
    """A limit on the size of files stands in for a full disk: both end in an error while the file is written."""
    resource = pytest.importorskip("resource")
    optimizer, scaler = stepped(model, 1)
    save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match=r"c: cannot be written .* the files written before are unchanged"):
            save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["c"]
    assert names(tmp_path / "c") == ["00000001.safetensors"]
    assert load_checkpoint(tmp_path / "c", model, optimizer, scaler) == {"step": 1}


def test_another_models_checkpoint_is_refused(model, config, tmp_path):
    add_lora(model, 2, 4)
    optimizer, scaler = stepped(model, 1)
    save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 1})
    other = minibert.BertForQuestionAnswering(config)
    add_lora(other, 3, 4)
    with pytest.raises(CheckpointError, match="trainable parameters differ"):
        load_checkpoint(tmp_path / "c", other, *stepped(other, 0))
    assert load_checkpoint(tmp_path / "nowhere", other, *stepped(other, 0)) is None


def test_fingerprints_see_what_does_not_train_and_the_description(model):
    add_lora(model, 2, 4)
    before = minirun.fingerprint(model, "config")
    with torch.no_grad():
        model.qa_outputs.bias.add_(1)  # trains: the checkpoint has it
    assert minirun.fingerprint(model, "config") == before
    assert minirun.fingerprint(model, "another config") != before
    with torch.no_grad():
        model.bert.layers[1].query.base.bias[0] += 1
    assert minirun.fingerprint(model, "config") != before


def test_files_appear_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), minihub.atomic_write(folder) as part:
        (part / "a").write_text("half")
        1 / 0  # noqa: B018
    assert names(tmp_path) == []
    folder.mkdir()
    (folder / "a").write_text("old")
    (folder / "b").write_text("other")
    with minihub.atomic_write(folder) as part:
        (part / "a").write_text("new")
        assert (folder / "a").read_text(encoding="utf-8") == "old"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == {"a": "new", "b": "other"}
    assert names(tmp_path) == ["out"]


def test_two_may_write_into_a_folder_under_different_names(tmp_path):
    with minihub.atomic_write(tmp_path) as run, minihub.atomic_write(tmp_path, ".part-report") as report:
        (run / "config.json").write_text("run")
        (report / "report.html").write_text("report")
    assert names(tmp_path) == ["config.json", "report.html"]


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path):
    with minihub.only_writer(tmp_path / "run"):
        second = minihub.only_writer(tmp_path / "run")
        with pytest.raises(ValueError, match="another process is writing"):
            second.__enter__()
    with minihub.only_writer(tmp_path / "run"):
        pass


def test_the_first_signal_is_noted_and_handlers_come_back():
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    alone, cpu = minirun.Processes(), torch.device("cpu")
    with minirun.catch_stop_signals() as stop:
        assert not stop.is_made(alone, cpu)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.is_made(alone, cpu)
        assert stop.exit_status == 143
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # a second one ends at once
    assert signal.getsignal(signal.SIGTERM) == before


def test_files_are_on_the_disk_before_they_take_the_place_of_others(tmp_path, monkeypatch):
    """As a power cut would show: each file is flushed, then renamed, and the folder is flushed in the end."""
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(os.fstat(handle).st_ino) or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda old, new: events.append(str(old)) or replace(old, new))
    with minihub.atomic_write(tmp_path) as part:
        for name in ("a", "b"):
            (part / name).write_text(name)
        files = {str(path): path.stat().st_ino for path in part.iterdir()}
    assert events[-1] == tmp_path.stat().st_ino
    for path, number in files.items():
        assert events.index(number) < events.index(path)


def test_files_are_as_readable_as_others(model, tmp_path):
    before = os.umask(0o022)
    try:
        minibert.save_pretrained(model, tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o644}, modes
