"""Every option of train.py reaches what it is for, and the record of a run does what its flags say."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import checkpoint_of, everything, flags, gradients_of_step, make_run, options_of, read, read_log

import lora
import minibert
import minihub
import minirun
import squad
import train
import train_gpt
from minibert.qa import load_reader
from minibert.qa.load import load_model


def run_with(tiny, tmp_path, *more):
    return make_run(options_of(flags(tiny, tmp_path / "unused", *more)))


def test_decay_head_rate_and_warm_up_reach_the_optimizer(tiny, tmp_path, monkeypatch):
    made, original = [], minirun.make_optimizer
    monkeypatch.setattr(minirun, "make_optimizer", lambda *args: made.append(args[1:]) or original(*args))
    more = ("--weight-decay", "0.25", "--head-rate", "7", "--warmup", "0.5", "--epochs", "1", "--log-every", "1")
    assert train.main(flags(tiny, tmp_path / "run", *more, "--learning-rate", "0.01")) == 0
    assert made == [(0.25, "qa_outputs", 7.0)]
    rates = [line["lr"] for line in read_log(tmp_path / "run") if "lr" in line]
    assert rates == pytest.approx([0.01 * minirun.schedule(step, len(rates), 0.5) for step in range(len(rates))])


def test_windows_without_an_answer_weigh_as_asked(tiny, tmp_path):
    run, rows = run_with(tiny, tmp_path, "--null-weight", "2.5"), np.arange(8)
    batch = squad.collate(run.train.windows, rows)
    with torch.no_grad():
        logits = run.model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    losses = squad.span_loss(*logits, batch.start_positions, batch.end_positions, batch.span_mask, reduction="none")
    without = batch.start_positions == 0
    assert 0 < without.sum() < len(rows)
    _, (loss, _) = gradients_of_step(run, rows)
    assert loss == pytest.approx(float((losses * (1 + 1.5 * without)).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("option", "value", "found"),
    [
        ("--lora-rank", "3", lambda model, layer: layer.rank),
        ("--lora-alpha", "6", lambda model, layer: layer.alpha),
        ("--lora-dropout", "0.25", lambda model, layer: layer.dropout.p),
        ("--dropout", "0.25", lambda model, layer: model.config.hidden_dropout_prob),
    ],
)
def test_an_option_changes_what_it_names_and_nothing_else(option, value, found, tiny, tmp_path):
    def figures(model):
        _, layer = next(lora.lora_layers(model))
        return layer.rank, layer.alpha, layer.dropout.p, model.config.hidden_dropout_prob

    usual, changed = run_with(tiny, tmp_path).model, run_with(tiny, tmp_path, option, value).model
    for _, layer in lora.lora_layers(changed):
        assert found(changed, layer) == float(value)
    assert sum(a != b for a, b in zip(figures(usual), figures(changed), strict=True)) == 1


def test_accumulation_makes_the_step_larger_not_the_epoch_longer(tiny, tmp_path):
    """4 passes of 2 windows learn what one pass of 8 does, step by step."""
    logs = []
    for size, passes in ((2, 4), (8, 1)):
        sizes = ("--batch-size", str(size), "--gradient-accumulation-steps", str(passes))
        out = tmp_path / f"{size}x{passes}"
        assert train.main(flags(tiny, out, *sizes, "--epochs", "1", "--log-every", "1", "--precision", "fp32")) == 0
        logs.append([(line["step"], line["loss"]) for line in read_log(out) if "loss" in line])
    assert [step for step, _ in logs[0]] == [step for step, _ in logs[1]]
    assert len(logs[0]) > 2
    assert [loss for _, loss in logs[0]] == pytest.approx([loss for _, loss in logs[1]], rel=1e-3)


def test_the_seed_decides_the_first_weights(tiny, tmp_path):
    def first(seed):
        return next(lora.lora_layers(run_with(tiny, tmp_path, "--seed", seed).model))[1].lora_A

    assert torch.equal(first("1"), first("1"))
    assert not torch.equal(first("1"), first("2"))


def test_each_step_of_each_process_has_random_numbers_of_its_own():
    seeds = {minirun.step_seed(seed, step, rank) for seed in range(4) for step in range(4) for rank in range(4)}
    assert len(seeds) == 64
    assert minirun.step_seed(1, 2, 3) in seeds


def test_no_answer_is_longer_than_allowed(tiny, tmp_path, tokenizer):
    out = tmp_path / "run"
    assert train.main(flags(tiny, out, "--max-answer-tokens", "2", "--epochs", "1")) == 0
    texts = {entry["text"] for entries in read(out / "nbest_predictions.json").values() for entry in entries}
    assert max(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts) == 2
    assert load_reader(out, device="cpu").max_answer_tokens == 2


def load_data(options, split, tokenizer):
    return train.load_data(options, split, squad.find_data(getattr(options, split), split), tokenizer, False)


def test_questions_are_made_for_training_only_and_drawn_by_the_seed(tiny, tmp_path):
    tokenizer = minibert.load_tokenizer(tiny)
    more = ("--augment", "3", "--leave-out", "2", "--max-train-examples", "120", "--max-dev-examples", "9")
    arguments = flags(tiny, tmp_path / "unused", *more)
    for name in ("--train", "--dev"):
        arguments[arguments.index(name) + 1] = "excerpt"

    def loaded(split, seed="0"):
        return load_data(options_of([*arguments, "--seed", seed]), split, tokenizer)

    file = squad.read_examples(squad.find_data("excerpt", "dev"))
    assert loaded("dev").examples == file[:9]
    first, same, other = (loaded("train", seed) for seed in "001")
    assert (first.made, len(first.examples)) == (5, 125)
    assert first.examples == same.examples
    assert first.examples[:120] == other.examples[:120]
    assert first.examples[120:] != other.examples[120:]


def test_malformed_questions_are_skipped_where_asked(tiny, tmp_path):
    data = read(tiny / "squad.json")
    data["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    (tmp_path / "bad.json").write_text(json.dumps(data))
    arguments = flags(tiny, tmp_path / "unused", "--train", str(tmp_path / "bad.json"))
    tokenizer = minibert.load_tokenizer(tiny)
    with pytest.raises(squad.DataError, match="question Vin0: answer 'a mistborn' at 8"):
        load_data(options_of(arguments), "train", tokenizer)
    data = load_data(options_of([*arguments, "--skip-bad"]), "train", tokenizer)
    assert len(data.examples) == 23
    assert "; 1 malformed questions left out, the first: " in data.summary()
    assert "question Vin0: answer 'a mistborn' at 8" in data.summary()


def test_the_base_of_a_run_is_read_at_its_revision(tiny, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr(minihub.hub, "_download", lambda name, revision: tiny)
    assert train.main(flags(tiny, out, "--epochs", "1", "--model", "some/model", "--revision", "v7")) == 0
    assert read(out / "adapter" / "adapter_config.json")["revision"] == "v7"
    asked = []
    for name in ("load_pretrained", "load_tokenizer"):
        original = getattr(minibert, name)

        def spy(path, revision=None, *args, original=original, **more):
            asked.append(revision)
            return original(path, revision, *args, **more)

        monkeypatch.setattr(minibert, name, spy)
    load_model(out)
    assert train.main(["--evaluate", str(out)]) == 0
    assert asked == ["v7"] * 4


def test_a_base_given_by_a_relative_path_is_found_from_anywhere(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny, "model")
    assert train.main(flags(tiny, "run", "--model", "model", "--epochs", "1")) == 0
    assert read(tmp_path / "run" / "adapter" / "adapter_config.json")["base_model_name_or_path"] == str(
        tmp_path / "model"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_reader(tmp_path / "run", device="cpu").max_length == 40


def test_compile_compiles_the_model_for_any_shape(tiny, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: seen.append((type(self).__name__, how)))
    run_with(tiny, tmp_path)
    assert seen == []
    run_with(tiny, tmp_path, "--compile")
    assert seen == [("BertForQuestionAnswering", {"dynamic": True})]


# -------------------------------------------------------------------------------------------- evaluation
SCORED = {  # of both scripts: what --evaluate may be given
    train: {"dev", "max_dev_examples", "skip_bad", "answerable_only", "max_length", "window_overlap", "language",
            "max_question_tokens", "max_answer_tokens", "scoring", "model", "revision", "compile"},
    train_gpt: {"dev", "max_dev_examples", "answerable_only", "max_length", "max_answer_tokens"},
}  # fmt: skip


@pytest.mark.parametrize("script", SCORED, ids=lambda script: script.__name__)
def test_an_evaluation_takes_what_it_heeds_and_nothing_else(script, tmp_path, monkeypatch):
    """One flag at a time beside --evaluate, with another value than the run's."""
    saved = script.Options(output=str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(dataclasses.asdict(saved)))

    def accepted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "prepare", accepted)
    others = {"checkpoint_every": "7", "language": "ur"}
    for field in dataclasses.fields(script.Options):
        value, given = getattr(saved, field.name), ["--" + field.name.replace("_", "-")]
        if isinstance(value, bool):
            pass  # the flag alone is True
        elif "choices" in field.metadata:
            given.append(next(choice for choice in field.metadata["choices"] if choice != value))
        elif isinstance(value, str):
            given.append(others.get(field.name, str(tmp_path / "other")))
        else:
            given.append(str(value + 1 if isinstance(value, int) else value / 2 or 0.5))
        heeded = field.name in SCORED[script] | {"device", "precision", "output"}
        expected = KeyboardInterrupt if heeded else ValueError
        with pytest.raises(expected, match=None if heeded else f"^{given[0]} .*: means nothing to --evaluate"):
            script.main(["--evaluate", str(tmp_path / "run"), *given])


def test_the_log_and_the_best_evaluation_have_the_figures_to_quote(tiny, tmp_path, monkeypatch):
    """Not those at a threshold tuned on the same questions."""
    monkeypatch.setattr(squad, "headline", lambda metrics: {"exact": 1.25, "f1": 2.5})
    assert train.main(flags(tiny, tmp_path, "--epochs", "1")) == 0
    [logged] = [line for line in read_log(tmp_path) if "f1" in line]
    assert (logged["exact"], logged["f1"]) == (1.25, 2.5)
    assert checkpoint_of(tmp_path)["best"]["f1"] == 2.5


def test_kinds_of_unanswerable_questions_are_counted_where_they_are_known(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "known_causes", lambda examples: {"Vin2": "negation"})
    assert train.main(flags(tiny, tmp_path, "--epochs", "1")) == 0
    causes = read(tmp_path / "metrics.json")["causes"]
    assert {cause: found["total"] for cause, found in causes.items()} == {"negation": 1}
    assert "negation" in capsys.readouterr().out


def test_other_questions_are_judged_by_the_runs_own_threshold_and_calibration(run, tiny, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    data = read(tiny / "squad.json")
    for article in data["data"]:
        del article["paragraphs"][0]["qas"][:5]
    (tmp_path / "other.json").write_text(json.dumps(data))
    assert train.main(["--evaluate", str(copy), "--dev", str(tmp_path / "other.json")]) == 0
    found, qa = read(copy / "evaluation" / "metrics.json"), read(copy / "adapter" / "qa.json")
    assert found["total"] == 14
    assert found["threshold"] == qa["null_threshold"]
    assert {name: found["calibration"][name] for name in ("temperature", "best_bonus")} == {
        name: qa[name] for name in ("temperature", "best_bonus")
    }


def test_a_run_keeps_what_answering_more_or_less_often_takes(run):
    prior, qa = read(run / "metrics.json")["prior"], read(run / "adapter" / "qa.json")
    assert (qa["dev_answerable"], qa["null_scale"]) == (prior["answerable"], prior["null_scale"])
    reader = load_reader(run, device="cpu")
    assert reader.threshold_for(0.9) > reader.threshold_for(0.1)


def test_the_dev_loss_is_the_mean_over_windows_each_computed_alone(run, tiny):
    model, tokenizer, _ = load_model(run, merged=False)
    windows = squad.make_windows(squad.read_examples(tiny / "squad.json"), tokenizer, 40, 8, 8)
    losses = []
    for row in range(len(windows)):
        batch = squad.collate(windows, np.array([row]))
        with torch.no_grad():
            logits = model.eval()(batch.input_ids, batch.token_type_ids, batch.attention_mask)
        losses.append(float(squad.span_loss(*logits, *batch[-2:], batch.span_mask)))
    assert read(run / "metrics.json")["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


# ------------------------------------------------------------------------------------------- the record
def test_losses_read_ten_steps_at_a_time_change_nothing(tiny, tmp_path, monkeypatch):
    """As on a GPU, where reading each would wait for it."""
    more = ("--epochs", "2", "--eval-every", "7", "--log-every", "9", "--checkpoint-every", "10")
    assert train.main(flags(tiny, tmp_path / "each", *more)) == 0
    original = minirun.Record
    monkeypatch.setattr(minirun, "Record", lambda *args, **named: original(*args, **(named | {"sync_every": 10})))
    assert train.main(flags(tiny, tmp_path / "ten", *more)) == 0
    assert everything(tmp_path / "ten") == everything(tmp_path / "each")


def test_a_checkpoint_every_two_minutes(tiny, tmp_path, monkeypatch):
    clock, original = SimpleNamespace(now=0.0), train.training_step

    def step(*args):
        clock.now += 50.0
        return original(*args)

    monkeypatch.setattr(train, "training_step", step)
    monkeypatch.setattr("minirun.record.time", SimpleNamespace(monotonic=lambda: clock.now))
    assert train.main(flags(tiny, tmp_path, "--epochs", "1", "--checkpoint-every", "2m", "--keep", "99")) == 0
    steps = sorted(int(path.stem) for path in (tmp_path / "checkpoint").glob("*.safetensors"))
    assert steps == [3, 6, 9, 12]  # 150 seconds apart; the last is the end, too


def test_an_evaluation_that_is_cut_off_is_done_again_when_the_run_is_resumed(tiny, tmp_path, monkeypatch):
    assert train.main(flags(tiny, tmp_path / "whole", "--epochs", "2")) == 0
    original, asked = squad.predict_windows, []

    def cut_off(*args):
        asked.append(args)
        if len(asked) == 2:
            raise RuntimeError("a power cut")
        return original(*args)

    monkeypatch.setattr(squad, "predict_windows", cut_off)
    with pytest.raises(RuntimeError, match="a power cut"):
        train.main(flags(tiny, tmp_path / "cut", "--epochs", "2"))
    assert checkpoint_of(tmp_path / "cut")["step"] == checkpoint_of(tmp_path / "whole")["step"]
    assert len(checkpoint_of(tmp_path / "cut")["evaluations"]) == 1
    assert train.main(["--resume", str(tmp_path / "cut")]) == 0
    assert len(asked) == 3

    def finished(name):  # all but checkpoints: the resumed run has fewer, as it wrote none of the first epoch's
        return {path: content for path, content in everything(tmp_path / name).items() if "checkpoint" not in path}

    assert finished("cut") == finished("whole")


def test_the_best_evaluation_is_the_one_with_the_highest_f1(run):
    at = checkpoint_of(run)
    assert len(at["evaluations"]) == 3
    assert at["best"]["f1"] == max(found["f1"] for found in at["evaluations"])


def test_training_goes_on_in_training_mode_after_an_evaluation(tiny, tmp_path, monkeypatch):
    modes, original = [], train.training_step
    monkeypatch.setattr(
        train, "training_step", lambda run, *rest: modes.append(run.model.training) or original(run, *rest)
    )
    assert train.main(flags(tiny, tmp_path, "--epochs", "2")) == 0
    assert modes == [True] * 24
