"""The figures of bench/: FLOPs against a counter inside torch, reports that keep what they do not measure again."""

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

from bench import table
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
    assert earlier(file, {"processor": "y"}) == {}
    text = file.with_suffix(".md").read_text()
    assert "2026-01-01 to 2026-01-02; processor x" in text
    assert "| decoding | 1 s | 0.5 s | met |" in text
    assert "| start | 5 s | 6 s | missed |" in text
