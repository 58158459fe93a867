"""exercises/: every stub fails, every solution passes, near misses are told apart, and each famous bug is noticed."""

import math

import numpy as np
import pytest
import torch
from helpers import ROOT

from exercises import __main__ as exercises
from exercises import solutions, yours
from exercises.breaks import BREAKS, failing_tests, patched

STEPS = exercises.STEPS


@pytest.mark.parametrize("step", STEPS)
def test_the_solution_passes_and_the_stub_does_not(step, monkeypatch, capsys):
    name, _ = STEPS[step]
    assert exercises.main([str(step)]) == 1
    assert capsys.readouterr().out.split(maxsplit=1)[1] == f"{name:20} not written yet\n"
    monkeypatch.setattr(yours, name, getattr(solutions, name))
    assert exercises.main([str(step)]) == 0
    assert capsys.readouterr().out.endswith(" right\n")


def with_large_number(q, k, v, mask):
    scores = q @ k.transpose(2, 3) / math.sqrt(q.size(-1))
    return scores.masked_fill(~mask, -1e4 if q.dtype == torch.half else -1.0).softmax(-1) @ v


NEAR_MISSES = {
    "attention": (with_large_number, "with padding: differs by up to"),
    "windows": (lambda q, n, length, overlap: [(0, min(n, length - q))], "expected [(0, 7), (7, 8)]"),
    "span_loss": (lambda s, e, i, j, mask: solutions.span_loss(s, e, i, j, torch.ones_like(mask)), "differs by up to"),
    "best_span": (lambda s, e, mask, most: (0.0, int(s.argmax()), int(e.argmax())), "expected (1, 1)"),
    "best_threshold": (lambda odds, f1, has_answer: np.inf, "mean F1"),
    "scores": (lambda gold, predicted: (float(gold == predicted), 0.0), "gold 'the Normans'"),
    "char_to_token_span": (lambda offsets, start, end: (0, len(offsets) - 1), "expected"),
    "checkpoint_names": (lambda layers: {}, "missing or too many"),
    "encoder_layer": (lambda layer, x, mask: x, "the output: differs by up to"),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_the_judge_says_what_differs(name, monkeypatch, capsys):
    step = next(step for step, (called, _) in STEPS.items() if called == name)
    wrong, message = NEAR_MISSES[name]
    monkeypatch.setattr(yours, name, wrong)
    assert exercises.main([str(step)]) == 1
    out = capsys.readouterr().out
    assert "not yet: " in out and message in out


def test_an_update_that_merges_twice_is_caught(monkeypatch, capsys):
    class Twice(solutions.LoRALinear):
        def merge(self):
            self._unmerged_weight = None
            super().merge()

    monkeypatch.setattr(yours, "LoRALinear", Twice)
    assert exercises.main(["4"]) == 1
    assert "after merging twice" in capsys.readouterr().out


def test_code_that_fails_shows_where(monkeypatch, capsys):
    monkeypatch.setattr(yours, "scores", lambda gold, predicted: gold.nothing)
    assert exercises.main(["10"]) == 1
    assert "AttributeError: 'str' object has no attribute 'nothing'" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["0"], ["11"], ["x"], ["break"], ["break", "7"]])
def test_a_wrong_number_is_a_clear_error(words):
    with pytest.raises(ValueError, match="expected a number from 1 to"):
        exercises.main(words)


@pytest.mark.parametrize("number", range(1, len(BREAKS) + 1))
def test_each_bug_is_one_line_and_noticed(number, capsys):
    path, text = patched(number)
    before, after = path.read_text(encoding="utf-8").splitlines(), text.splitlines()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert exercises.main(["break", str(number)]) == 0
    assert f"{number}. {BREAKS[number - 1].what}" in capsys.readouterr().out
    assert failing_tests(number)


def test_the_readme_has_every_step_and_bug():
    text = (ROOT / "exercises" / "README.md").read_text(encoding="utf-8")
    for step, (name, _) in STEPS.items():
        assert f"**{step}. `{name}`.**" in text
    assert text.count("<summary>Hint</summary>") == len(STEPS)
