"""The figures of bench/: FLOPs against a counter inside torch, reports that keep what they do not measure again."""

import logging
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

import lora
import minibert
import squad

pytest.importorskip("transformers", reason="needs the extra `bench`")
sys.path.insert(0, str(Path(__file__).parent.parent))

import train
from bench import same, sides, table
from bench.run import earlier
from bench.sides import training_flops


def test_flops_are_those_that_torch_counts(config):
    model = minibert.BertForQuestionAnswering(config)
    lora.add_lora(model, rank=2, alpha=4, targets="attention")
    ids, positions = torch.randint(1, 37, (3, 7)), torch.tensor([0, 4, 6])
    ones = torch.ones_like(ids)

    def plain(x, W, b, sA, B):  # torch does not count products in place
        return linear(x, W, b) + linear(linear(x, sA), B)

    with patch("lora.linear.lora_linear", plain), FlopCounterMode(display=False) as counter:
        logits = model(ids, torch.zeros_like(ids), ones)
        squad.span_loss(*logits, positions, positions, ones.bool()).backward()
    assert training_flops(config, np.array([7, 7, 7]), rank=2) == counter.get_total_flops()


def test_a_part_measured_again_leaves_the_others(tmp_path, capsys):
    file, machine = tmp_path / "results" / "cpu.json", {"processor": "x"}
    first = {"date": "2026-01-01", "rows": [table.row("decoding", "1 s", "0.5 s", True)]}
    again = {"date": "2026-01-02", "rows": [table.row("start", "5 s", "6 s", False)]}
    assert earlier(file, machine) == {}
    table.write({"machine": machine, "parts": {"decode": first}}, file)
    parts = earlier(file, machine) | {"start": again}
    table.write({"machine": machine, "parts": parts}, file)
    assert earlier(file, machine) == {"decode": first, "start": again}
    with pytest.raises(ValueError, match="of another machine"):
        earlier(file, {"processor": "y"})
    text = file.with_suffix(".md").read_text()
    assert "2026-01-01 to 2026-01-02; processor x" in text
    assert "| decoding | 1 s | 0.5 s | met |" in text
    assert "| start | 5 s | 6 s | missed |" in text


@pytest.fixture(autouse=True)
def own_log():
    """A side has a process to itself, and silences the log in it."""
    log = logging.getLogger("minibert")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture
def data(tiny):
    return squad.load_dataset(tiny / "squad.json", minibert.load_tokenizer(str(tiny)), (60, 10, 12))


def test_our_side_takes_steps_of_train_on_the_windows_it_is_given(tiny, data, monkeypatch):
    taken, step = [], train.training_step

    def spy(run, model, data, rows, *rest):
        loss, norm = step(run, model, data, rows, *rest)
        taken.append((rows.tolist(), float(loss)))
        return loss, norm

    monkeypatch.setattr(train, "training_step", spy)
    given = np.array([5, 3, 0, 2, 7, 6, 1])
    setup = sides.Setup("ours", model=str(tiny), batch=3, precision="fp32")
    steps = sides.build_ours(data, setup, torch.device("cpu"))
    for _ in range(30):
        steps(given)
    passes = [taken[at : at + 3] for at in range(0, len(taken), 3)]
    assert all(sorted(row for rows, _ in each for row in rows) == sorted(given) for each in passes)
    assert {len(rows) for rows, _ in taken} == {1, 3}
    assert sum(loss for _, loss in passes[-1]) < sum(loss for _, loss in passes[0])


@pytest.mark.filterwarnings("ignore")  # PEFT's
def test_their_side_learns_the_windows_it_is_given(tiny, data, monkeypatch):
    pytest.importorskip("peft")
    losses, backward = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: losses.append(float(loss)) or backward(loss))
    setup = sides.Setup("theirs", model=str(tiny), batch=3, precision="fp32", pad_to=60)
    steps = sides.build_theirs(data, setup, torch.device("cpu"))
    for _ in range(30):
        steps(np.arange(7))
    assert len(losses) == 30 * 3
    assert sum(losses[-3:]) < sum(losses[:3])


def test_fast_and_plain_paths_start_with_the_same_loss(has_minilm):
    data = sides.load_windows()
    first = same.losses(data, 1, "forward"), same.losses(data, 1, "reversed", backwards=True)
    assert first[0] == pytest.approx(first[1], rel=1e-2)
