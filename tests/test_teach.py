"""Distillation: soft targets and their loss against brute force, and what --teachers does to a run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import everything, flags, gradients_of_step, letter_tokenizer, make_run, options_of, sigterm_at, write_tiny
from safetensors.torch import load_file, save_file

import lora
import minibert
import minirun
import squad
import train
from minibert.qa import load_model, teachers
from minibert.qa.load import SHIPPED
from squad.teach import TEMPERATURE, soft_loss, soft_targets


@pytest.fixture
def windows(tiny, tokenizer):
    examples = squad.read_examples(tiny / "squad.json")
    return squad.make_windows(examples, tokenizer, 40, 8, 8)


@pytest.fixture
def models(tiny):
    """Two that differ."""
    first, second = minibert.load_pretrained(tiny).eval(), minibert.load_pretrained(tiny).eval()
    with torch.no_grad():
        second.qa_outputs.weight.normal_()
    return first, second


def one_by_one(models, windows):
    """(2, T) for each window alone: start and end, by the formula in float64."""
    for w in range(len(windows)):
        batch = squad.collate(windows, np.array([w]), multiple=1)
        scores = [torch.stack(m(*batch[:3]))[:, 0].double() for m in models]
        powers = [torch.exp(s / 2) * batch.span_mask for s in scores]
        yield sum(p / p.sum(-1, keepdim=True) for p in powers) / len(models)


def test_targets_are_the_mean_of_softmax_at_temperature_two(models, windows):
    assert TEMPERATURE == 2.0
    taught = soft_targets(models, windows)
    assert len(taught.begin) == len(windows) + 1 > 20
    with torch.no_grad():
        for w, expected in enumerate(one_by_one(models, windows)):
            T = expected.size(1)
            found = taught.of(np.array([w]), T + 3)
            assert found.shape == (2, 1, T + 3)
            torch.testing.assert_close(found[:, 0, :T].double(), expected, atol=1e-3, rtol=0)  # stored in float16
            assert not found[:, 0, T:].any()


def test_targets_of_a_batch_are_those_of_its_windows(models, windows):
    taught, ids = soft_targets(models[:1], windows), np.array([7, 0, 11])
    batch = squad.collate(windows, ids)
    p = taught.of(ids, batch.span_mask.size(1))
    assert not p[:, ~batch.span_mask].any()
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 3), atol=2e-3, rtol=0)
    for row, w in enumerate(ids):
        torch.testing.assert_close(p[:, row], taught.of(np.array([w]), p.size(2))[:, 0])


def random_case(B=3, T=7):
    mask = torch.rand(B, T) < 0.6
    mask[:, 0] = True
    logits = 3 * torch.randn(2, B, T)
    p = torch.rand(2, B, T) * mask
    return logits, p / p.sum(-1, keepdim=True), mask


def test_soft_loss_is_cross_entropy_by_brute_force():
    logits, p, mask = random_case()
    total = 0.0
    for which in range(2):
        for row in range(3):
            at = mask[row].nonzero().flatten().tolist()
            z = sum(np.exp(float(logits[which, row, i]) / 2) for i in at)
            total -= sum(float(p[which, row, i]) * np.log(np.exp(float(logits[which, row, i]) / 2) / z) for i in at)
    assert float(soft_loss(*logits, p, mask)) == pytest.approx(4 * total / 6, rel=1e-5)


def test_a_student_that_scores_as_its_teacher_has_nothing_to_learn():
    logits, other, mask = random_case()
    same = (logits / TEMPERATURE).masked_fill(~mask, -torch.inf).softmax(-1)
    norms = []
    for p in (same, other):
        asked = logits.clone().requires_grad_()
        soft_loss(*asked, p, mask).backward()
        assert not asked.grad[:, ~mask].any()
        norms.append(float(asked.grad.norm()))
    assert norms[0] < 1e-6 < 1e-2 < norms[1]


def test_a_step_learns_half_from_labels_and_half_from_the_teachers(tiny, run, tmp_path, monkeypatch):
    def step(*more):
        made = make_run(options_of(flags(tiny, tmp_path / "unused", "--max-grad-norm", "1000000", *more)))
        return made, *gradients_of_step(made, np.arange(6))

    taught_by = ("--teachers", str(run))
    _, labels, (labels_loss, _) = step()
    taught, both, (both_loss, _) = step(*taught_by)
    monkeypatch.setattr(squad, "span_loss", lambda *logits_and_labels: 0.0 * logits_and_labels[0].sum())
    _, soft, (half_soft_loss, _) = step(*taught_by)

    expected = soft_targets([load_model(run)[0].eval()], taught.train.windows)
    np.testing.assert_allclose(taught.taught.probabilities, expected.probabilities, atol=1e-3)  # float16
    assert both_loss == pytest.approx(labels_loss / 2 + half_soft_loss, rel=1e-5)
    assert both.keys() == labels.keys() == soft.keys()
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, labels[name] / 2 + soft[name], atol=1e-6, rtol=1e-4)
    assert max(float(gradient.norm()) for gradient in soft.values()) > 1e-3


def test_a_taught_run_resumes_to_the_last_byte_and_only_with_its_teachers(tiny, run, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(run / "adapter", teacher)
    more = ("--teachers", str(teacher), "--epochs", "2")
    assert train.main(flags(tiny, tmp_path / "whole", *more)) == 0
    assert train.main(flags(tiny, tmp_path / "untaught", "--epochs", "2")) == 0
    with sigterm_at(5):
        assert train.main(flags(tiny, tmp_path / "cut", *more)) == 143
    shutil.copytree(tmp_path / "cut", tmp_path / "other")
    assert train.main(["--resume", str(tmp_path / "cut")]) == 0
    whole = everything(tmp_path / "whole")
    assert everything(tmp_path / "cut") == whole
    name = "adapter/adapter_model.safetensors"
    assert everything(tmp_path / "untaught")[name] != whole[name]

    weights, others = load_file(teacher / "adapter_model.safetensors"), load_file(tmp_path / "untaught" / name)
    [head] = [key for key in weights if key.endswith("qa_outputs.weight")]
    for changed in (others, weights | {head: -weights[head]}):  # in all, and in the head only
        save_file(changed, teacher / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=f"this run was started with another teacher {teacher}"):
            train.main(["--resume", str(tmp_path / "other")])


def test_teachers_are_asked_once_about_the_same_windows(tiny, run, tmp_path, monkeypatch):
    """What they said is read from the cache, unless a teacher, the windows, or the precision are others."""
    asked = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(teachers, "soft_targets", lambda *args: asked.append(1) or soft_targets(*args))

    def targets(teacher, *more):
        made = make_run(options_of(flags(tiny, tmp_path / "unused", "--teachers", str(teacher), *more)))
        return made.taught.probabilities, made.taught.begin, len(asked)

    *first, times = targets(run)
    *second, times_then = targets(run)
    assert (times, times_then) == (1, 1)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    assert targets(tiny)[2] == 2
    assert targets(f"{run},{tiny}")[2] == 3
    assert targets(run, "--max-train-examples", "3")[2] == 4
    assert targets(run, "--precision", "bf16")[2] == 5
    assert targets(run)[2] == 5


def test_a_teacher_with_another_vocabulary_or_too_few_positions_is_refused(tiny, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    write_tiny(other, letter_tokenizer(words=["who"]))
    with pytest.raises(ValueError, match=f"teacher {other}: it has another vocabulary"):
        make_run(options_of(flags(tiny, tmp_path / "unused", "--teachers", str(other))))
    mistyped = flags(tiny, tmp_path / "unused", "--teachers", "nowhere/at-all/here")
    monkeypatch.setattr(squad, "load_dataset", None)  # refused before the data is read, which can take minutes
    with pytest.raises(ValueError, match="the teachers are 'a,', expected names with commas between them"):
        make_run(options_of(flags(tiny, tmp_path / "unused", "--teachers", "a,")))
    with pytest.raises(ValueError, match=r"teacher nowhere/at-all/here: .*no such folder"):
        make_run(options_of(mistyped))
    short = minibert.load_pretrained(tiny)
    config = dataclasses.replace(short.config, max_position_embeddings=20)
    shutil.copytree(tiny, tmp_path / "short")
    minibert.save_pretrained(minibert.BertForQuestionAnswering(config), tmp_path / "short")
    with pytest.raises(
        ValueError, match=f"teacher {tmp_path / 'short'}: windows of 40 tokens, but this model has 20 positions"
    ):
        make_run(options_of(flags(tiny, tmp_path / "unused", "--teachers", f"{tiny}, {tmp_path / 'short'}")))


def test_teachers_are_known_by_what_is_on_disk_and_keep_their_heads_in_float32(
    run, tiny, tokenizer, windows, monkeypatch
):
    """Merging rounds differently on other processors, and logits in bfloat16 have 8 bits."""
    asked = teachers.load_teachers(str(run), tokenizer, 40)
    unmerged, _, _ = load_model(run, merged=False)
    expected = teachers.fingerprint_of(unmerged.requires_grad_(False))
    for _, layer in lora.lora_layers(unmerged):
        layer.scale = 2 * layer.scale  # as with another lora_alpha: the same weights, another model
    assert teachers.fingerprint_of(unmerged) != expected
    seen = []
    monkeypatch.setattr(
        teachers, "soft_targets", lambda models, *_: seen.extend(models) or soft_targets(models, windows)
    )
    place = torch.device("cpu"), torch.bfloat16, minirun.Processes()
    _, found = teachers.ask_teachers(asked, windows, *place)
    assert list(found.values()) == [expected]
    (teacher,) = seen
    assert not list(lora.lora_layers(teacher))
    assert {p.dtype for p in teacher.qa_outputs.parameters()} == {torch.float32}
    assert {p.dtype for p in teacher.bert.parameters()} == {torch.bfloat16}


def test_the_sample_alone_brings_made_questions_and_the_shipped_adapter_as_teacher(tmp_path):
    plain = train.Options(train="sample", output=str(tmp_path / "unused"))
    assert plain.with_recipe() == dataclasses.replace(plain, augment=9_000, teachers="shipped")
    others = {"augment": 5, "leave_out": 5, "teachers": "none", "max_train_examples": 5, "answerable_only": True}
    others |= {"train": "squad_v2", "model": "google-bert/bert-base-uncased"}
    for name, value in others.items():
        other = dataclasses.replace(plain, **{name: value})
        assert other.with_recipe() == other


def test_the_recipe_is_for_new_runs(run, tiny, tmp_path, monkeypatch):
    def with_recipe(options):
        return dataclasses.replace(options, augment=3, teachers=str(run))

    def in_config(folder):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config["augment"], config["teachers"]

    assert train.main(flags(tiny, tmp_path / "before")) == 0
    monkeypatch.setattr(train.Options, "with_recipe", with_recipe)
    assert train.main(flags(tiny, tmp_path / "after")) == 0
    assert in_config(tmp_path / "after") == (3, str(run))
    assert train.main(["--evaluate", str(tmp_path / "before")]) == 0
    assert in_config(tmp_path / "before" / "evaluation") == (0, "")
    assert train.main(["--resume", str(tmp_path / "before"), "--epochs", "2"]) == 0
    assert in_config(tmp_path / "before") == (0, "")


def test_shipped_and_none_are_teachers_by_name(has_minilm):
    tokenizer = minibert.load_tokenizer("minilm")
    assert teachers.load_teachers("none", tokenizer, 40) == {}
    (teacher,) = teachers.load_teachers("shipped", tokenizer, 40).values()
    expected, _, _ = load_model(SHIPPED, merged=False)
    assert minirun.fingerprint(teacher, "") == minirun.fingerprint(expected.requires_grad_(False), "")
