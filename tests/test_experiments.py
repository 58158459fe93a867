"""Experiments: what they are made of against brute force, and whole ones on a tiny model."""

import json
import os
import signal
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA, flags
from hypothesis import given
from hypothesis import strategies as st
from options import parse_options

import squad
from experiments import ablate, before_after, common, compare, padding, sweep


def example(id, title, context="vin is a mistborn", answers=()):
    return squad.Example(id, "who?", context, tuple(answers), not answers, title)


# ------------------------------------------------------------------------------------------- the split


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_the_two_parts_share_no_article(sizes, questions, held, seed):
    examples = [example(f"{a}.{i}", f"article {a}") for a, size in enumerate(sizes) for i in range(size)]
    fit, kept = common.split_by_article(examples, questions, held, seed)
    assert not {e.title for e in fit} & {e.title for e in kept}
    assert 1 <= len(fit) <= questions
    assert 1 <= len(kept) <= held
    assert len({e.id for e in fit + kept}) == len(fit) + len(kept)
    assert common.split_by_article(examples, questions, held, seed) == (fit, kept)


def test_one_article_cannot_be_split():
    with pytest.raises(ValueError, match="1 articles are too few"):
        common.split_by_article([example("a", "x"), example("b", "x")], 5, 5)


def test_what_is_written_reads_back(tmp_path):
    examples = squad.read_examples(DATA / "dev.json.gz")[:200]
    common.write_squad(examples, tmp_path / "x.json")
    again = squad.read_examples(tmp_path / "x.json")
    assert sorted(again, key=lambda e: e.id) == sorted(examples, key=lambda e: e.id)


def test_other_data_in_the_same_folder_is_refused(tmp_path):
    def options(questions):
        return types.SimpleNamespace(
            output=tmp_path, train=DATA / "train.json.gz", questions=questions, held=30, ranks=[1]
        )

    first = common.prepare_data(options(50))
    assert common.prepare_data(options(50)) == first
    with pytest.raises(ValueError, match="holds this experiment with questions 50 instead of 60"):
        common.prepare_data(options(60))
    more = options(50)
    more.ranks = [1, 2]
    with pytest.raises(ValueError, match=r"with ranks \[1\] instead of \[1, 2\]"):
        common.prepare_data(more)


def test_numbers_of_questions_are_positive():
    for text in ("0", "-5", "many", "1.5"):
        with pytest.raises(ValueError, match="expected a whole number of at least 1"):
            common.parser("x", "").parse_args(["--questions", text])


# ------------------------------------------------------------------------------------- counts and batches

GOLD = [squad.Answer("a mistborn", 7), squad.Answer("mistborn", 9)]


@pytest.mark.parametrize(
    ("answers", "given", "kind"),
    [
        (GOLD, "a mistborn", "correct"),
        (GOLD, "mistborn", "similar"),  # exact for SQuAD, which looks at every gold answer and strips articles
        (GOLD, "vin is a mistborn", "similar"),
        (GOLD, "", "similar"),  # silence where there is an answer
        (GOLD, "vin", "incorrect"),
        ([], "", "correct"),
        ([], "vin", "similar"),  # an answer where there is none
    ],
)
def test_counts_are_those_of_simple_transformers(answers, given, kind):
    assert before_after.kind_of(example("x", "t", answers=answers), given) == kind


@pytest.fixture(scope="module")
def windows(tokenizer):
    examples = [example(str(i), "t", "vin " * (3 + 5 * i)) for i in range(9)]
    return squad.make_windows(examples, tokenizer, 60, 10, 8)


@pytest.mark.parametrize("way", padding.WAYS)
def test_every_way_trains_each_window_once_and_its_waste_is_what_the_batches_hold(windows, way):
    batches = padding.make_batches(way, windows.lengths, 4)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))
    longest = 60 if way == "static" else 0
    positions, real = 0, 0
    for rows in batches:
        batch = padding.padded(squad.collate(windows, rows), longest)
        positions += batch.input_ids.numel()
        real += int(batch.attention_mask.sum())
        assert {t.shape for t in batch if t.dim() == 2} == {batch.input_ids.shape}
    assert padding.waste(windows, batches, longest) == pytest.approx(1 - real / positions)


def test_static_padding_changes_no_loss(windows, tiny):
    import minibert

    model = minibert.load_pretrained(tiny)
    batch = squad.collate(windows, np.array([0, 2, 1]))
    losses = []
    for b in (batch, padding.padded(batch, 60)):
        logits = model(b.input_ids, b.token_type_ids, b.attention_mask)
        losses.append(squad.span_loss(*logits, b.start_positions, b.end_positions, b.span_mask))
    torch.testing.assert_close(*losses)


# ---------------------------------------------------------------------------------------------- the sweep


@pytest.mark.parametrize("name", ["space.toml", "space-full.toml"])
def test_the_example_spaces_are_flags_of_train(name):
    space = sweep.read_space(Path(sweep.__file__).parent / name)
    trial = types.SimpleNamespace(
        suggest_categorical=lambda name, choices: choices[-1],
        suggest_int=lambda name, low, high, log: high,
        suggest_float=lambda name, low, high, log: low,
    )
    values = sweep.proposed(trial, space)
    options = parse_options(sweep.flags_of(values), "").options
    for flag, value in values.items():
        assert getattr(options, flag.replace("-", "_")) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a", "cannot be read as TOML"),
        ("rate = 3", r"\[rate\] is 3, expected choices, or low, high"),
        ("[rate]\nlow = 3", r"\[rate\] is {'low': 3}, expected choices, or low, high"),
        ("[rate]\nlow = 3\nhigh = 4\nstep = 1", r"expected choices, or low, high"),
    ],
)
def test_spaces_that_are_none(tmp_path, text, message):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        sweep.read_space(tmp_path / "space.toml")


# --------------------------------------------------------------------------------------------- whole ones


def on_tiny(tiny, *more):
    """Flags of an experiment that make every run one of a tiny model."""
    sizes = flags(tiny, "unused")[8:-2]  # not --log-every, which is theirs
    files = ["--train", str(tiny / "squad.json"), "--dev", str(tiny / "squad.json"), "--questions", "10", "--held", "6"]
    return [*files, *more, "--", "--model", str(tiny), *sizes]


def test_ablate_ends_in_a_table_and_goes_on_where_it_was(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablate, "TARGETS", {"query, value": "attention"})
    arguments = on_tiny(tiny, "--ranks", "1", "2", "--rates", "1e-3", "--output", str(tmp_path))
    assert ablate.main(arguments) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [row["rank"] for row in rows] == [1, 2]
    # rank 1 on query and value of two layers: 2 x 2 x (12 + 12), and the head's 2 x 12 + 2
    assert rows[0]["parameters"] == 2 * 2 * 24 + 26
    table = (tmp_path / "results.md").read_text()
    assert "| query, value | 2 | 4 | 0.001 |" in table
    assert table in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert ablate.main(arguments) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    assert json.loads((tmp_path / "results.json").read_text()) == rows


def test_a_run_that_fails_says_its_last_words(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"train.py ended with status 2: train.py: --epochs is -1, .*; all it said is"):
        common.trained(tmp_path / "run", ["--model", str(tiny), "--epochs=-1"])


@pytest.mark.parametrize("given", [["--lora-rank", "4"], ["--train=x.json"], ["--output", "x"]])
def test_flags_that_an_experiment_sets_itself_are_refused(given, tiny, tmp_path):
    more = ("--ranks", "1", "--rates", "1e-3", "--output", str(tmp_path))
    with pytest.raises(ValueError, match=f"^{given[0]} after --: this experiment sets that itself"):
        ablate.main([*on_tiny(tiny, *more), *given])
    assert not list(tmp_path.glob("r1-*"))


def test_questions_that_all_have_an_answer_are_judged_by_always_answering(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "TARGETS", {"query, value": "attention"})
    more = ("--ranks", "1", "--rates", "1e-3", "--output", str(tmp_path))
    assert ablate.main([*on_tiny(tiny, *more), "--answerable-only"]) == 0
    [row] = json.loads((tmp_path / "results.json").read_text())
    table = (tmp_path / "results.md").read_text()
    assert "chosen by the F1 when always answering" in table
    assert f"| {common.with_interval(row['dev']['always_answer'] | {'NoAns_exact': 0}, 'f1')} |" in table


def test_ctrl_c_ends_an_experiment_once_its_run_has_ended(tmp_path):
    """To the experiment alone: as in a terminal, where the run has it too, but that runs to its end here."""
    (tmp_path / "run.py").write_text("import time, sys; print('on', flush=True); time.sleep(1.5); print('done')")
    killer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    killer.start()
    end = common.timed([str(tmp_path / "run.py")], tmp_path / "words.txt")
    killer.join()
    assert end.interrupted
    assert end.status == 0
    assert (tmp_path / "words.txt").read_text().split() == ["on", "done"]
    with pytest.raises(KeyboardInterrupt):
        common.check(end, tmp_path / "words")


@pytest.mark.filterwarnings("ignore")
def test_sweep_prunes_reports_and_goes_on(tiny, tmp_path, capsys):
    pytest.importorskip("optuna")
    (tmp_path / "space.toml").write_text("[learning-rate]\nlow = 1e-3\nhigh = 1e-2\nlog = true\n")
    more = ("--space", str(tmp_path / "space.toml"), "--epochs", "2", "--output", str(tmp_path / "out"))
    assert sweep.main(on_tiny(tiny, "--trials", "1", *more)) == 0
    assert sweep.main(on_tiny(tiny, "--trials", "2", *more)) == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["number"] for row in rows] == [0, 1]
    best = max((row for row in rows if row["f1"] is not None), key=lambda row: row["f1"])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert line.strip().startswith(f"python train.py --learning-rate {best['learning-rate']:.4g}")
    parse_options(line.split()[2:], "")


@pytest.mark.filterwarnings("ignore")
def test_trials_that_were_stopped_do_not_count_and_failed_ones_end_the_sweep(tmp_path):
    optuna = pytest.importorskip("optuna")
    study = sweep.open_study(optuna, tmp_path)
    for _ in range(4):
        study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)  # what Ctrl-C makes of one
    study.tell(study.ask(), 1.0)
    assert sweep.trials_left(optuna, study, 2)
    assert not sweep.trials_left(optuna, study, 1)
    for _ in range(3):
        trial = study.ask()
        trial.set_user_attr("error", "train.py ended with status 2")
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(ValueError, match=r"train.py failed in three trials"):
        sweep.trials_left(optuna, study, 2)
    assert len(sweep.open_study(optuna, tmp_path).trials) == 8


@pytest.mark.filterwarnings("ignore")
def test_a_sweep_whose_runs_fail_ends_and_says_why(tiny, tmp_path, capsys):
    pytest.importorskip("optuna")
    (tmp_path / "space.toml").write_text("[learning-rate]\nlow = -2.0\nhigh = -1.0\n")
    more = ("--space", str(tmp_path / "space.toml"), "--output", str(tmp_path / "out"), "--trials", "9")
    with pytest.raises(ValueError, match=r"train.py failed in three trials"):
        sweep.main(on_tiny(tiny, *more))
    assert capsys.readouterr().out.count("fail, train.py ended with status 2: train.py: --learning-rate is -") == 3


def test_losses_of_each_epoch_are_read_from_the_log(tmp_path):
    lines = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}, {"step": 2, "epoch": 1.0, "f1": 9.0, "dev_loss": 2.5}]
    lines += [{"step": 4, "loss": 1.0}, {"step": 4, "epoch": 2.0, "f1": 9.0, "dev_loss": 2.0}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert compare.losses(tmp_path) == [
        {"epoch": 1.0, "train": 3.0, "held": 2.5},
        {"epoch": 2.0, "train": 1.0, "held": 2.0},
    ]


def test_compare_chooses_by_the_held_out_part_and_weighs_files(tiny, tmp_path, monkeypatch):
    kinds = {"LoRA": (["--lora-rank", "2"], (1e-3, 1e-2)), "full": (["--lora-rank", "0"], (1e-4,))}
    monkeypatch.setattr(compare, "KINDS", kinds)
    assert compare.main(on_tiny(tiny, "--epochs", "1", "--output", str(tmp_path))) == 0
    lora, full = json.loads((tmp_path / "results.json").read_text())
    held = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("LoRA-*/metrics.json")}
    assert lora["metrics"]["f1"] == max(common.held_f1(metrics) for metrics in held.values())
    assert full["parameters"]["share"] == 1.0
    assert (
        lora["bytes"] == (tmp_path / f"LoRA-{lora['rate']:g}" / "adapter" / "adapter_model.safetensors").stat().st_size
    )
    assert full["bytes"] > lora["bytes"]
    assert lora["latency"].keys() == {"merged", "unmerged"}
    assert full["latency"].keys() == {"merged"}


def test_before_after_names_the_line_that_is_wrong(tiny, tmp_path):
    (tmp_path / "x.jsonl").write_text('{"question": "who?", "context": "vin"}\n{"question": 3}\n')
    files = ["--dev", str(tiny / "squad.json"), "--examples", str(tmp_path / "x.jsonl"), "--output", str(tmp_path)]
    with pytest.raises(ValueError, match=r"x.jsonl: line 2: 'question' is int, expected a text"):
        before_after.main(files)
    (tmp_path / "x.jsonl").write_text("")
    (tmp_path / "none.json").write_text('{"data": []}')
    with pytest.raises(ValueError, match=r"none.json: has no question"):
        before_after.main([*files, "--dev", str(tmp_path / "none.json")])


def test_before_after_asks_both_the_same(tiny, run, tmp_path, capsys):
    files = [
        "--dev",
        str(tiny / "squad.json"),
        "--examples",
        str(tmp_path / "x.jsonl"),
        "--output",
        str(tmp_path / "out"),
    ]
    (tmp_path / "x.jsonl").write_text('{"id": "a", "question": "who is vin?", "context": "vin is a mistborn"}\n')
    assert before_after.main(["--before", str(tiny), "--after", str(run), *files]) == 0
    before, after = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sum(before["counts"].values()) == sum(after["counts"].values()) == 24
    assert after["metrics"]["f1"] > before["metrics"]["f1"]  # it was trained on these
    shown = json.loads((tmp_path / "out" / "examples.json").read_text())
    assert [len(shown[when][0]) for when in ("before", "after")] == [3, 3]
    assert (tmp_path / "out" / "examples.md").read_text() in capsys.readouterr().out


def test_padding_measures_all_three_ways(tmp_path, has_minilm):
    files = ["--train", str(DATA / "dev.json.gz"), "--questions", "6", "--output", str(tmp_path)]
    assert padding.main([*files, "--passes", "1", "--batch-size", "3"]) == 0
    static, dynamic, alike = json.loads((tmp_path / "results.json").read_text())
    assert static["waste"] > dynamic["waste"] >= alike["waste"] > 0
    assert all(row["windows_per_second"] > 0 for row in (static, dynamic, alike))
