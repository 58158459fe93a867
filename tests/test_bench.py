"""bench/: FLOPs against a counter inside torch, both sides' steps, the plain formulas, workers, and kept reports."""

import dataclasses
import multiprocessing
import operator
import os
import signal
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import add_lora
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

import lora.linear
import minibert
import squad
import train
from bench import generation, learning, machine, peers, run, same, sides, table
from bench.run import earlier, estimate
from bench.sides import training_flops
from bench.worker import Worker


def test_flops_are_those_that_torch_counts(config):
    model = minibert.BertForQuestionAnswering(config)
    add_lora(model, rank=2, alpha=4)
    ids, positions = torch.randint(1, 37, (3, 7)), torch.tensor([0, 4, 6])
    ones = torch.ones_like(ids)

    def plain(x, W, b, sA, B, products):  # torch does not count products in place
        return linear(x, W, b) + linear(linear(x, sA), B)

    with patch("lora.linear.lora_linear", plain), FlopCounterMode(display=False) as counter:
        logits = model(ids, torch.zeros_like(ids), ones)
        squad.span_loss(*logits, positions, positions, ones.bool()).backward()
    assert training_flops(config, np.array([7, 7, 7]), rank=2) == counter.get_total_flops()


def test_generations_of_one_processors_name_are_two_machines(monkeypatch, tmp_path):
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "Path", lambda _: file)
    names = []
    for model in (17, 2):
        core = f"cpu family\t: 25\nmodel\t\t: {model}\nmodel name\t: EPYC\nflags\t\t: fma avx512_bf16\n"
        file.write_text(f"processor\t: 0\n{core}\nprocessor\t: 1\n{core}", encoding="utf-8")
        names.append((machine.processor(), machine.kind_of_machine(torch.device("cpu"))))
    assert names[0] == ("EPYC 25 17 (avx512_bf16)", "avx512-bf16-25-17")
    assert names[1] == ("EPYC 25 2 (avx512_bf16)", "avx512-bf16-25-2")


def test_the_time_to_a_peers_last_score():
    mine = [(0.25, 60.0, 50.0, 40.0), (0.5, 120.0, 51.0, 50.0), (0.75, 180.0, 50.5, 55.0)]
    assert learning.in_words(mine, [(1, 300.0, 52.0, 0.0), (2, 600.0, 50.5, 0.0)]) == (
        "ends at F1 50.50 after 10.0 minutes, ours is there after 2.0, 20% of the time"
    )
    found = learning.in_words(mine, [(1, 300.0, 52.0, 0.0)])
    assert found == "ends at F1 52.00 after 5.0 minutes, where ours does not come"


def test_a_part_measured_again_leaves_the_others(tmp_path):
    file, here = tmp_path / "results" / "cpu.json", {"processor": "x"}
    first = {"date": "2026-01-01", "rows": [table.row("decoding", "1 s", "0.5 s", True)]}
    again = {"date": "2026-01-02", "rows": [table.row("start", "5 s", "6 s", False)]}
    assert earlier(file, here) == {}
    table.write({"machine": here, "parts": {"decode": first}}, file)
    parts = earlier(file, here) | {"start": again}
    table.write({"machine": here, "parts": parts}, file)
    assert earlier(file, here) == {"decode": first, "start": again}
    with pytest.raises(ValueError, match="on another machine"):
        earlier(file, {"processor": "y"})
    text = file.with_suffix(".md").read_text(encoding="utf-8")
    assert "2026-01-01 to 2026-01-02; processor x" in text
    assert "| decoding | 1 s | 0.5 s | met |" in text
    assert "| start | 5 s | 6 s | missed |" in text


def test_the_fastest_peer_of_each_precision_is_the_one_to_beat(capsys):
    speeds = {"minibert-fp32": (10, 5), "slow-fp32": (8, 4), "fast-fp32": (12, 6), "minibert-bf16": (20, 3),
              "fast-bf16": (20, 3.5), "fast-int8": (99, 1)}  # fmt: skip
    found = {name: {"questions": questions, "p50": p50} for name, (questions, p50) in speeds.items()}
    rows = [(row["measured"], row["met"]) for row in peers.comparison(found)]
    assert rows == [
        ("10.0 against 12.0 questions/s (fast-fp32)", False), ("5.0 against 4.0 ms (slow-fp32)", False),
        ("20.0 against 20.0 questions/s (fast-bf16)", True), ("3.0 against 3.5 ms (fast-bf16)", True),
    ]  # fmt: skip
    assert peers.comparison({"minibert-fp32": found["minibert-fp32"], "fast-int8": found["fast-int8"]}) == []


@pytest.mark.parametrize("name", ["minilm", "bert-base"])
@pytest.mark.parametrize(("device", "precision"), [("cpu", "bf16"), ("cpu", "fp32"), ("cuda", "bf16")])
def test_rows_of_training_hold_medians_beside_their_goals(name, device, precision, monkeypatch, capsys):
    def measured(setups, rounds, steps, one_at_a_time):
        assert one_at_a_time == (name == "bert-base" and device == "cpu")
        speeds = {setup: [1.0, 9.0, 4.0] if setup.side == "ours" else [1.0, 2.0, 7.0] for setup in setups}
        return speeds, [1e12, 3e12, 2e12], [0.1, 0.6, 0.9], dict.fromkeys(setups, 2**30)

    monkeypatch.setattr(run, "measure", measured)
    monkeypatch.setattr(run, "random_bert_base", lambda folder: folder)
    options = SimpleNamespace(device=device, precision=precision, quick=False)
    rows, table = run.training(name, options), run.GPU_ROWS if device == "cuda" else run.CPU_ROWS
    ratios, share, memory = rows[: len(table)], rows[len(table)], rows[len(table) + 1 :]
    assert [row["measured"] for row in ratios] == ["2.0 x (4.0 against 2.0 questions/s)"] * len(table)
    goals = run.GPU_GOALS if device == "cuda" else run.GOALS[name, precision]
    assert [row["met"] for row in ratios] == [None if goal is None else goal <= 2 for goal in goals]
    assert share["measured"] == "60% of 2,000 GFLOP/s"
    assert share["met"] == {"cuda": None, "cpu": precision == "bf16"}[device]
    assert len(memory) == len(table) and not any(row["met"] for row in memory)  # as much as theirs


@pytest.mark.filterwarnings("ignore")
def test_both_sides_write_the_same(monkeypatch):
    pytest.importorskip("transformers", reason="needs the extra `bench`")
    monkeypatch.setattr(generation, "PROMPT", 7)
    monkeypatch.setattr(generation, "WRITTEN", 5)
    assert all(speed > 0 for speed in generation.speeds((41, 12, 2, 3), torch.float32, batch=3, rounds=1))
    theirs = generation.both_sides

    def other_weights(*arguments):
        return theirs(*arguments)[0], theirs(*arguments)[1]

    monkeypatch.setattr(generation, "both_sides", other_weights)
    with pytest.raises(ValueError, match="the two sides wrote different tokens"):
        generation.speeds((41, 12, 2, 3), torch.float32, batch=3, rounds=1)


@pytest.fixture
def data(tiny):
    return squad.load_dataset(tiny / "squad.json", minibert.load_tokenizer(str(tiny)), (60, 10, 12))


def test_our_side_takes_steps_of_train_on_the_windows_it_is_given(tiny, data, monkeypatch):
    taken, step = [], train.training_step

    def spy(run, model, window_ids, *rest):
        loss, norm = step(run, model, window_ids, *rest)
        taken.append((window_ids.tolist(), float(loss)))
        return loss, norm

    monkeypatch.setattr(train, "training_step", spy)
    given = np.array([5, 3, 0, 2, 7, 6, 1])
    setup = sides.Setup("ours", model=str(tiny), batch=3, precision="fp32")
    steps = sides.build_ours(data, setup, torch.device("cpu"))
    for _ in range(30):
        steps(given)
    passes = [taken[at : at + 3] for at in range(0, len(taken), 3)]
    assert all(sorted(w for ids, _ in each for w in ids) == sorted(given) for each in passes)
    assert {len(ids) for ids, _ in taken} == {1, 3}
    assert sum(loss for _, loss in passes[-1]) < sum(loss for _, loss in passes[0])


@pytest.mark.filterwarnings("ignore")  # PEFT's
def test_their_side_learns_the_windows_it_is_given(tiny, data, monkeypatch):
    pytest.importorskip("transformers", reason="needs the extra `bench`")
    pytest.importorskip("peft", reason="needs the extra `bench`")
    losses, backward = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: losses.append(float(loss.detach())) or backward(loss))
    setup = sides.Setup("theirs", model=str(tiny), batch=3, precision="fp32", pad_to=60)
    steps = sides.build_theirs(data, setup, torch.device("cpu"))
    for _ in range(30):
        steps(np.arange(7))
    assert len(losses) == 30 * 3
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.fixture
def fast_calls(monkeypatch):
    """The names of train.py's fast paths, as often as they are taken."""
    calls = []

    def spy(owner, name):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args: calls.append(name) or original(*args))

    spy(train, "training_step")
    spy(lora.linear, "lora_linear")
    spy(minibert.model, "attention")
    return calls


def test_fast_and_plain_paths_start_with_the_same_loss(tiny, data, fast_calls):
    options = train.Options(model=str(tiny), batch_size=8, precision="fp32", learning_rate=0.02)
    fast = same.losses(data, options, 1, "fast")
    assert set(fast_calls) == {"training_step", "lora_linear", "attention"}
    fast_calls.clear()
    plain = same.losses(data, options, 1, "plain")
    assert not fast_calls
    assert fast == pytest.approx(plain, rel=1e-5)


def test_the_default_options_of_the_comparison_take_steps(tiny, data):
    options = dataclasses.replace(same.default_options(), model=str(tiny))
    assert len(same.losses(data, options, 1, "plain")) == 1


@pytest.mark.filterwarnings("ignore")  # PEFT's
def test_both_sides_take_the_same_batches_where_it_says_so(tiny, data, monkeypatch):
    pytest.importorskip("transformers", reason="needs the extra `bench`")
    pytest.importorskip("peft", reason="needs the extra `bench`")
    taken, collate = [], squad.collate

    def spy(windows, ids, *rest, **more):
        taken.append(ids.tolist())
        return collate(windows, ids, *rest, **more)

    monkeypatch.setattr(squad, "collate", spy)
    given, batches = np.array([5, 3, 0, 2, 7, 6, 1]), {}
    for name, more in (("ours", {}), ("random", {}), ("same", {"like_lengths": True})):
        build = sides.build_ours if name == "ours" else sides.build_theirs
        steps = build(data, sides.Setup(name, model=str(tiny), batch=3, precision="fp32", **more), torch.device("cpu"))
        taken.clear()
        steps(given)
        batches[name] = list(taken)
    assert batches["random"] == [[5, 3, 0], [2, 7, 6], [1]]
    assert sorted(map(sorted, batches["same"])) == sorted(map(sorted, batches["ours"])) != batches["random"]


def test_fast_and_plain_paths_learn_the_same(tiny, data):
    """From the second step on the losses show the gradients too, and lora_B is not zero any more."""
    options = train.Options(model=str(tiny), batch_size=8, precision="fp32", learning_rate=0.02)
    fast, plain, other_order = (same.losses(data, options, 3, name) for name in ("fast", "plain", "plain, reversed"))
    assert len(fast) == 3
    assert len(set(fast.round(2))) == 3  # it moves by more than what is allowed below
    assert fast == pytest.approx(plain, rel=1e-4)
    assert other_order == pytest.approx(plain, rel=1e-4)


# ------------------------------------------------------------------------------------------- worker processes


def test_workers_answer_each_from_a_process_of_its_own():
    workers = [Worker(partial, pow, base) for base in (2, 3)]
    assert [[worker.ask(power) for worker in workers] for power in (5, 2)] == [[32, 243], [4, 9]]
    workers.append(Worker(partial, os.getpid))
    assert workers[-1].ask() not in (os.getpid(), None)
    children = multiprocessing.active_children()
    assert len(children) == 3
    for worker in workers:
        worker.close()
    assert not any(child.is_alive() for child in children)


def test_a_worker_that_fails_says_why_then_and_later(capfd):
    worker = Worker(partial, operator.truediv, 6)
    assert worker.ask(4) == 1.5
    with pytest.raises(ValueError, match="a worker process has ended with status 1"):
        worker.ask(0)
    assert "ZeroDivisionError: division by zero" in capfd.readouterr().err
    with pytest.raises(ValueError, match="a worker process has ended with status 1"):
        worker.ask(4)
    with pytest.raises(ValueError, match=r"^invalid literal for int\(\) with base 10: 'no number'$"):
        Worker(int, "no number")
    assert capfd.readouterr().err == ""


def test_a_worker_that_is_killed_is_missed():
    worker = Worker(partial, os.kill)
    with pytest.raises(ValueError, match="a worker process has ended with status -9"):
        worker.ask(worker._process.pid, signal.SIGKILL)


def test_half_of_the_estimate_follows_the_matrix_speed():
    assert estimate(889.0, "bf16") == "about 55 minutes at 889 GFLOP/s in bf16"
    assert estimate(2666.0, "bf16") == "about 55 minutes at 2666 GFLOP/s in bf16"
    assert estimate(60.0, "fp32") == "about 192 minutes at 60 GFLOP/s in fp32"
