"""experiments/padding.py: every way to batch takes each window once, at the waste and the losses that it claims."""

import numpy as np
import pytest
import torch
from helpers import DATA, example, read

import minibert
import squad
from experiments import padding


@pytest.fixture(scope="module")
def windows(tokenizer):
    examples = [example(id=str(i), context="vin " * (3 + 5 * i)) for i in range(9)]
    return squad.make_windows(examples, tokenizer, 60, 10, 8)


@pytest.mark.parametrize("way", padding.WAYS)
def test_every_way_trains_each_window_once_and_its_waste_is_what_the_batches_hold(windows, way):
    batches = padding.make_batches(way, windows.lengths, 4)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))
    longest = 60 if way == "static" else 0
    task = padding.Task(None, windows.lengths, 60, 16, None)
    positions, real = 0, 0
    for rows in batches:
        batch = padding.padded(squad.collate(windows, rows), longest)
        positions += batch.input_ids.numel()
        real += int(batch.attention_mask.sum())
        assert {t.shape for t in batch if t.dim() == 2} == {batch.input_ids.shape}
    assert padding.waste(task, batches, longest) == pytest.approx(1 - real / positions)


def test_static_padding_changes_no_loss(windows, tiny):
    model = minibert.load_pretrained(tiny)
    batch = squad.collate(windows, np.array([0, 2, 1]))
    losses = []
    for b in (batch, padding.padded(batch, 60)):
        logits = model(b.input_ids, b.token_type_ids, b.attention_mask)
        losses.append(squad.span_loss(*logits, b.start_positions, b.end_positions, b.span_mask))
    torch.testing.assert_close(*losses)


def test_padding_measures_all_three_ways(tmp_path, has_minilm):
    files = ["--train", str(DATA / "dev.json.gz"), "--questions", "6", "--output", str(tmp_path)]
    assert padding.main([*files, "--passes", "1", "--batch-size", "3"]) == 0
    static, dynamic, alike = read(tmp_path / "results.json")
    assert static["waste"] > dynamic["waste"] >= alike["waste"] > 0
    assert all(row["windows_per_second"] > 0 for row in (static, dynamic, alike))
