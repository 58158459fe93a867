"""Training state to a folder and back; train.py's tests resume whole runs with it."""

import pytest
import torch

import lora
import minibert
from minibert import CheckpointError


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
    lora.add_lora(model, 2, 4)
    optimizer, scaler = stepped(model, 3)
    minibert.save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 3})

    other = minibert.BertForQuestionAnswering(config)
    lora.add_lora(other, 2, 4)
    other_optimizer, other_scaler = stepped(other, 0)
    assert minibert.load_checkpoint(tmp_path / "c", other, other_optimizer, other_scaler) == {"step": 3}
    assert scaler.state_dict() == other_scaler.state_dict()
    pairs = zip(optimizer.param_groups[0]["params"], other_optimizer.param_groups[0]["params"], strict=True)
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)
        a, b = optimizer.state[ours], other_optimizer.state[theirs]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_save_cut_short_leaves_the_one_before(model, tmp_path, monkeypatch):
    optimizer, scaler = stepped(model, 1)
    minibert.save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 1})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("minibert.checkpoint.save_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            minibert.save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 2})
    assert minibert.load_checkpoint(tmp_path / "c", model, optimizer, scaler) == {"step": 1}
    (tmp_path / "c").rename(tmp_path / "c.old")  # killed between the two renames
    assert minibert.load_checkpoint(tmp_path / "c", model, optimizer, scaler) == {"step": 1}


def test_another_models_checkpoint_is_refused(model, config, tmp_path):
    lora.add_lora(model, 2, 4)
    optimizer, scaler = stepped(model, 1)
    minibert.save_checkpoint(tmp_path / "c", model, optimizer, scaler, {"step": 1})
    other = minibert.BertForQuestionAnswering(config)
    lora.add_lora(other, 3, 4)
    with pytest.raises(CheckpointError, match="trainable parameters differ"):
        minibert.load_checkpoint(tmp_path / "c", other, *stepped(other, 0))
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        minibert.load_checkpoint(tmp_path / "nowhere", other, *stepped(other, 0))


def test_the_first_signal_is_noted_and_handlers_come_back():
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with minibert.stop_signals() as caught:
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # a second one ends at once
    assert signal.getsignal(signal.SIGTERM) == before
