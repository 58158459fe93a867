"""exercises/: every stub fails, every solution passes, near misses are told apart, and each famous bug is noticed."""

import copy
import math
import re
import shutil
import sys

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


def with_number(number):
    def attention(q, k, v, mask):
        scores = q @ k.transpose(2, 3) / math.sqrt(q.size(-1))
        return scores.masked_fill(~mask, number).softmax(-1) @ v

    return attention


def with_softmax_over_queries(q, k, v, mask):
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.size(-1))).masked_fill(~mask, -math.inf)
    return scores.softmax(2).nan_to_num() @ v


def normalised_first(layer, x, mask):
    q, k, v = (
        project(layer.attention_norm(x)).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        for project in (layer.query, layer.key, layer.value)
    )
    a = solutions.attention(q, k, v, mask).transpose(1, 2).flatten(2)
    x = x + layer.attention_output(a)
    return x + layer.output(layer.activation(layer.intermediate(layer.output_norm(x))))


def without_gelu(layer, x, mask):
    layer = copy.deepcopy(layer)
    layer.activation = torch.relu
    return solutions.encoder_layer(layer, x, mask)


def swapped(one, other):
    """The right table, but for two parts whose checkpoint names have changed places."""

    def names(layers):
        table = solutions.checkpoint_names(layers)
        return table | {one: table[other], other: table[one]}

    return names


class MergesTwice(solutions.LoRALinear):
    def merge(self):
        self._unmerged_weight = None
        super().merge()


class AddsTheMergedUpdateAgain(solutions.LoRALinear):
    def forward(self, x):
        update = self.scale * (x @ self.lora_A.T @ self.lora_B.T)
        return self.base(x) + update


class TrainsTheBase(solutions.LoRALinear):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        base.requires_grad_(True)


class PlainTensors(solutions.LoRALinear):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        A, B = self.lora_A.detach(), self.lora_B.detach()
        del self.lora_A, self.lora_B
        self.lora_A, self.lora_B = A, B


class DetachedUpdate(solutions.LoRALinear):
    def forward(self, x):
        return self.base(x) + (super().forward(x) - self.base(x)).detach()


class RandomB(solutions.LoRALinear):
    def __init__(self, base, rank, alpha):
        super().__init__(base, rank, alpha)
        torch.nn.init.normal_(self.lora_B)
        torch.nn.init.zeros_(self.lora_A)


class NeedsBias(solutions.LoRALinear):
    def forward(self, x):
        return super().forward(x) + 0 * self.base.bias


NEAR_MISSES = [
    ("attention", with_large_number, "a masked key has the weight 0."),
    ("attention", lambda q, k, v, m: solutions.attention(q, k, v, m) * 1.01, "over the keys, expected 1"),
    ("attention", with_softmax_over_queries, "over the keys, expected 1"),
    ("attention", lambda q, k, v, m: solutions.attention(q * q.size(-1) ** 0.5, k, v, m), "not divided by sqrt(D)"),
    ("attention", lambda q, k, v, m: solutions.attention(q, k, v, ~m), "a softmax of nothing but -inf"),
    ("encoder_layer", lambda layer, x, mask: x, "the attention half (the MLP's output is zero here): differs by up to"),
    ("encoder_layer", normalised_first, "the attention half (the MLP's output is zero here): differs by up to"),
    ("encoder_layer", without_gelu, "the MLP half (attention's output is zero here): differs by up to"),
    ("encoder_layer", lambda layer, x, mask: None, "a NoneType, expected a tensor"),
    ("checkpoint_names", lambda layers: {}, "of our names these are missing: ['bert.embeddings.norm'"),
    ("checkpoint_names", lambda layers: solutions.checkpoint_names(layers + 1), "these do not exist: ['bert.layers.2"),
    ("checkpoint_names", lambda layers: None, "a NoneType, expected a dictionary"),
    ("checkpoint_names", swapped("bert.layers.1.query", "bert.layers.1.key"), "self.key, but that is another part"),
    ("checkpoint_names", swapped("bert.layers.0.attention_norm", "bert.layers.0.output_norm"), "that is another part"),
    ("LoRALinear", MergesTwice, "after merging twice"),
    ("LoRALinear", AddsTheMergedUpdateAgain, "after merging, when W alone gives the result: differs by up to"),
    ("LoRALinear", TrainsTheBase, "what trains is ['base.bias', 'base.weight', 'lora_A', 'lora_B']"),
    ("LoRALinear", PlainTensors, "what trains is []"),
    ("LoRALinear", DetachedUpdate, "no gradient reaches lora_A and lora_B"),
    ("LoRALinear", RandomB, "lora_B is not zero at the start"),
    ("char_to_token_span", lambda offsets, start, end: (0, len(offsets) - 1), "expected"),
    ("windows", lambda q, n, length, overlap: [(0, min(n, length - q))], "expected [(0, 7), (7, 8)]"),
    ("span_loss", lambda s, e, i, j, mask: solutions.span_loss(s, e, i, j, torch.ones_like(mask)), "differs by up to"),
    ("best_span", lambda s, e, mask, most: (0.0, int(s.argmax()), int(e.argmax())), "expected (1, 1)"),
    ("best_span", lambda s, e, mask, most: solutions.best_span(s, e, mask, most + 1), "at most 1, mask"),
    ("best_threshold", lambda odds, f1, has_answer: np.inf, "mean F1"),
    ("scores", lambda gold, predicted: (float(gold == predicted), 0.0), "gold 'the Normans'"),
    (
        "scores",
        lambda gold, predicted: solutions.scores(*(re.sub(r"\b(a|an|the)\b", " ", t) for t in (gold, predicted))),
        "gold 'a.m.'",
    ),
    ("scores", lambda gold, predicted: solutions.scores(gold.replace("An ", "Anne "), predicted), "gold 'An apple'"),
    ("scores", lambda gold, predicted: solutions.scores(*(t.replace("-", " ") for t in (gold, predicted))), "gold '"),
    ("checkpoint_names", lambda layers: solutions.checkpoint_names(2), "is the argument used?"),
    ("attention", with_number(-1e4), "below any finite number for masked ones"),
    ("attention", with_number(-1e9), "float16 cannot hold the masked score"),
]


@pytest.mark.parametrize(("name", "wrong", "message"), NEAR_MISSES)
def test_the_judge_says_what_differs(name, wrong, message, monkeypatch, capsys):
    monkeypatch.setattr(yours, name, wrong)
    assert exercises.main([step_of(name)]) == 1
    out = capsys.readouterr().out
    assert "not yet: " in out and message in out


def step_of(name):
    return next(str(step) for step, (called, _) in STEPS.items() if called == name)


def test_an_update_of_a_layer_without_bias_is_judged_too(monkeypatch, capsys):
    monkeypatch.setattr(yours, "LoRALinear", NeedsBias)
    assert exercises.main(["4"]) == 1
    assert "TypeError" in capsys.readouterr().out


def test_a_step_that_calls_one_not_written_says_so(monkeypatch, capsys):
    monkeypatch.setattr(yours, "encoder_layer", lambda layer, x, mask: yours.attention(x, x, x, mask))
    assert exercises.main(["2"]) == 1
    assert "it calls attention, step 1, which is not written yet" in capsys.readouterr().out


def test_a_class_with_a_method_not_written_says_which(monkeypatch, capsys):
    class Unmerged(solutions.LoRALinear):
        def merge(self):
            raise NotImplementedError

    monkeypatch.setattr(yours, "LoRALinear", Unmerged)
    assert exercises.main(["4", "1"]) == 1
    said = capsys.readouterr().out
    assert "merge() is not written yet" in said
    assert " 1 attention" in said  # both that were asked for are judged


def test_an_error_of_pytorch_is_not_code_that_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(yours, "attention", lambda q, k, v, mask: mask.softmax(-1))
    assert exercises.main(["1"]) == 1
    said = capsys.readouterr().out
    assert "it fails" in said and "not implemented for 'Bool'" in said and "not written yet" not in said


def test_tests_that_do_not_run_are_not_taken_for_tests_that_pass(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ValueError, match=r"the tests did not run .*: pip install -e '\.\[test\]'"):
        failing_tests(2)


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
    shown = capsys.readouterr().out
    assert f"{number}. {BREAKS[number - 1].what}" in shown
    failing = failing_tests(number)
    for test, how in failing.items():
        assert how
        assert test.partition("::")[2].partition("[")[0] in shown  # among those to guess from
    assert failing


def test_the_readme_has_every_step_and_bug():
    text = (ROOT / "exercises" / "README.md").read_text(encoding="utf-8")
    for step, (name, _) in STEPS.items():
        assert f"**{step}. `{name}`.**" in text
    assert text.count("<summary>Hint</summary>") == len(STEPS)
