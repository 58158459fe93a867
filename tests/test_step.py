"""The arithmetic of a training step, the schedule and the optimizer."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import add_lora, flags, gradients_of_step, make_run, options_of
from torch.utils._python_dispatch import TorchDispatchMode

import minirun
import squad
import train


def run_with(tiny, tmp_path, *more):
    return make_run(options_of(flags(tiny, tmp_path, *more)))


def test_accumulating_4_x_2_equals_1_x_8(tiny, tmp_path):
    rows = np.arange(8)
    whole, result = gradients_of_step(run_with(tiny, tmp_path, "--batch-size", "8"), rows)
    parts, again = gradients_of_step(
        run_with(tiny, tmp_path, "--batch-size", "2", "--gradient-accumulation-steps", "4"), rows
    )
    assert result == pytest.approx(again, rel=1e-5)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_a_short_last_batch_weighs_each_window_alike(tiny, tmp_path):
    rows = np.arange(7)  # 4 + 3
    parts, _ = gradients_of_step(
        run_with(tiny, tmp_path, "--batch-size", "4", "--gradient-accumulation-steps", "2"), rows
    )
    whole, _ = gradients_of_step(run_with(tiny, tmp_path, "--batch-size", "7"), rows)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_once_and_after_unscaling(tiny, tmp_path):
    run = run_with(
        tiny, tmp_path, "--max-grad-norm", "0.001", "--batch-size", "2", "--gradient-accumulation-steps", "4"
    )
    seen = {}
    optimizer = minirun.make_optimizer(run.model, 0.0)
    optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    _, norm = train.training_step(run, run.model, np.arange(8), optimizer, scaler, 1e-3)
    total = torch.stack([g.norm() for g in seen.values()]).norm().item()
    assert total == pytest.approx(0.001, rel=1e-3)  # clipped scaled gradients would be 1024 times smaller
    _, plain = gradients_of_step(run_with(tiny, tmp_path, "--max-grad-norm", "1e9"), np.arange(8))
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
    run = run_with(tiny, tmp_path, "--dropout", "0.1")
    optimizer = minirun.make_optimizer(run.model, 0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with Waits() as waits:
        loss, _ = train.training_step(run, run.model, np.arange(8), optimizer, scaler, 1e-3)
        assert waits.seen == [torch.ops.aten._local_scalar_dense.default] * len(optimizer.state)  # AdamW's own counters
        float(loss)
    assert len(waits.seen) == len(optimizer.state) + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_step_on_a_gpu_does_not_synchronise(tiny, tmp_path):
    run = run_with(tiny, tmp_path)
    run = dataclasses.replace(run, device=torch.device("cuda"), model=run.model.cuda())
    optimizer, scaler = minirun.make_optimizer(run.model, 0.0), torch.amp.GradScaler("cuda", enabled=False)
    train.training_step(run, run.model, np.arange(8), optimizer, scaler, 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        train.training_step(run, run.model, np.arange(8), optimizer, scaler, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_loss_that_is_not_finite_names_step_and_questions(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(squad, "span_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ValueError, match=r"step 1: the loss is nan, .* on the questions (Vin|Paris)\d+, "):
        train.main(flags(tiny, tmp_path / "run"))


def test_schedule_is_a_triangle_that_ends_at_zero():
    rates = [minirun.schedule(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert np.argmax(rates) == 10
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0.0
    assert minirun.schedule(0, 5, 0.0) == 1.0


def test_only_matrices_decay(model):
    add_lora(model, 2, 4)
    decayed, kept = minirun.make_optimizer(model, 0.1).param_groups
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert all(p.dim() == 2 for p in decayed["params"])
    assert decayed["betas"] == kept["betas"] == (0.9, 0.98)  # as the adapter's card says
    assert [tuple(p.shape) for p in kept["params"]] == [(2,)]


def test_only_the_head_has_a_rate_of_its_own(model):
    add_lora(model, 2, 4)
    groups = minirun.make_optimizer(model, 0.1, "qa_outputs", 7.0).param_groups
    times = {id(p): group["times"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert times.pop(id(parameter), None) == (7.0 if "qa_outputs" in name else 1.0 if "lora" in name else None)
    assert not times


@pytest.mark.parametrize("head_rate", [1.0, 7.0])
def test_a_step_moves_the_head_at_its_rate(head_rate, tiny, tmp_path):
    run = run_with(tiny, tmp_path)
    weight = run.model.qa_outputs.weight
    before = weight.detach().clone()
    optimizer = minirun.make_optimizer(run.model, 0.0, train.HEAD, head_rate)
    train.training_step(run, run.model, np.arange(8), optimizer, torch.amp.GradScaler(enabled=False), 1e-3)
    # AdamW's first step is the rate times the gradient's sign, but for its epsilon of 1e-8.
    moved = (weight.detach() - before).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-3 * head_rate), rtol=1e-2, atol=0)
