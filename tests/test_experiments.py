"""Experiments: their data, their runs of train.py, and whole ones (ablate, compare) on a tiny model."""

import json
import signal
import types

import pytest
from helpers import DATA, ROOT, example, on_tiny, read
from hypothesis import given
from hypothesis import strategies as st

import minibert
import squad
from experiments import __main__ as overview
from experiments import ablate, before_after, common, compare, padding, recipe, scripts, teach
from experiments.__main__ import NAMES

# ------------------------------------------------------------------------------------------- the split


@given(st.lists(st.integers(1, 30), min_size=2, max_size=12), st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
def test_the_two_parts_share_no_article(sizes, questions, held, seed):
    examples = [example(id=f"{a}.{i}", title=f"article {a}") for a, size in enumerate(sizes) for i in range(size)]
    fit, kept = common.split_by_article(examples, questions, held, seed)
    assert not {e.title for e in fit} & {e.title for e in kept}
    assert 1 <= len(fit) <= questions
    assert 1 <= len(kept) <= held
    assert len({e.id for e in fit + kept}) == len(fit) + len(kept)
    assert common.split_by_article(examples, questions, held, seed) == (fit, kept)


def test_one_article_cannot_be_split():
    with pytest.raises(ValueError, match="1 articles are too few"):
        common.split_by_article([example(id="a", title="x"), example(id="b", title="x")], 5, 5)


def test_what_is_written_reads_back(tmp_path):
    examples = squad.read_examples(DATA / "dev.json.gz")[:200]
    common.write_squad(examples, tmp_path / "x.json")
    again = squad.read_examples(tmp_path / "x.json")
    assert sorted(again, key=lambda e: e.id) == sorted(examples, key=lambda e: e.id)


@pytest.mark.parametrize(("limits", "answerable_only"), [((0, 0), False), ((7, 5), False), ((0, 0), True)])
def test_the_questions_that_a_run_used_are_counted_and_not_those_asked_for(tmp_path, limits, answerable_only):
    file = DATA / "dev.json.gz"
    common.prepare_data(types.SimpleNamespace(output=tmp_path, train=file, questions=5_000, held=30))
    titles = {example.title for example in squad.read_examples(tmp_path / "fit.json")}
    there = sum(example.title in titles for example in squad.read_examples(file))
    assert there < 1_323 - 30
    paths = {part: str(tmp_path / name) for part, name in (("train", "fit.json"), ("dev", "held.json"))}
    given = dict(zip(("max_train_examples", "max_dev_examples"), limits, strict=True))
    (tmp_path / "config.json").write_text(json.dumps(paths | given | {"answerable_only": answerable_only}))
    fit, held = ([e for e in squad.read_examples(path) if e.answers or not answerable_only] for path in paths.values())
    assert scripts.sizes(tmp_path) == (limits[0] or len(fit), limits[1] or len(held))
    assert len(fit) <= there


def test_a_small_file_is_not_nearly_all_held_out():
    examples = [example(id=f"{a}.{i}", title=f"article {a}") for a in range(10) for i in range(60)]
    fit, kept = common.split_by_article(examples, 4000, 400)
    assert (len(fit), len(kept)) == (300, 300)


def test_other_data_in_the_same_folder_is_refused(tmp_path):
    def prepared(questions, ranks, folder, **more):
        file, output = DATA / "train.json.gz", tmp_path / folder
        options = types.SimpleNamespace(output=output, train=file, questions=questions, held=30, ranks=ranks)
        return common.prepare_data(options, **more)

    assert prepared(50, [1], "x") == prepared(50, [1], "x")
    with pytest.raises(ValueError, match="holds this experiment with questions 50 instead of 60"):
        prepared(60, [1], "x")
    with pytest.raises(ValueError, match=r"with ranks \[1\] instead of \[1, 2\]"):
        prepared(50, [1, 2], "x")
    with pytest.raises(ValueError, match=r"with ranks \[1\] instead of None"):
        prepared(50, [1, 2], "x", may_change=["ranks"])
    assert prepared(50, [1], "y", may_change=["ranks"]) == prepared(50, [1, 2], "y", may_change=["ranks"])


def test_numbers_of_questions_are_positive():
    for text in ("0", "-5", "many", "1.5"):
        with pytest.raises(ValueError, match="expected a whole number of at least 1"):
            common.parser("x", "").parse_args(["--questions", text])


# --------------------------------------------------------------------------------------------- whole ones


def test_ablate_ends_in_a_table_and_goes_on_where_it_was(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablate, "TARGETS", {"query, value": "attention"})
    arguments = on_tiny(tiny, "--ranks", "1", "2", "--rates", "1e-3", "--output", str(tmp_path))
    assert ablate.main(arguments) == 0
    rows = read(tmp_path / "results.json")
    assert [row["rank"] for row in rows] == [1, 2]
    # rank 1 on query and value of two layers: 2 x 2 x (12 + 12), and the head's 2 x 12 + 2
    assert rows[0]["parameters"] == 2 * 2 * 24 + 26
    base = sum(parameter.numel() for parameter in minibert.load_pretrained(tiny).parameters())
    assert rows[0]["share"] == (2 * 2 * 24 + 26) / (base + 2 * 2 * 24)
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert f"{len(squad.read_examples(tmp_path / 'fit.json'))} questions of" in table
    assert "| query, value | 2 | 4 | 0.001 |" in table
    assert f'; always "" has F1 {rows[0]["dev"]["always_empty"]["f1"]:.2f} on dev.' in table.replace("\n", " ")
    assert table in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert ablate.main(arguments) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    assert read(tmp_path / "results.json") == rows


def test_recipe_shows_mean_lowest_and_highest_over_seeds(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "CHANGES", {"nothing": (), "rank 1": ("--lora-rank", "1")})
    assert recipe.main(on_tiny(tiny, "--seeds", "2", "--output", str(tmp_path))) == 0
    files = {
        name: [tmp_path / f"{name}-seed-{seed}" / "metrics.json" for seed in (0, 1)]
        for name in ("defaults", "lora-rank-1")
    }
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    for name, change in (("defaults", "nothing"), ("lora-rank-1", "rank 1")):
        low, high = sorted(read(path)["always_answer"]["HasAns_f1"] for path in files[name])
        [line] = [line for line in table.splitlines() if line.startswith(f"| {change} |")]
        assert line.split(" | ")[2] == f"{(low + high) / 2:.2f} ({low:.1f} - {high:.1f})"
    assert f'always "" has F1 {100 * 8 / 24:.2f} on dev' in table.replace("\n", " ")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert recipe.main(on_tiny(tiny, "--seeds", "2", "--output", str(tmp_path))) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before


def test_the_third_model_is_taught_by_the_two_before_it(tiny, tmp_path):
    data = str(tiny / "squad.json")
    arguments = ["--train", data, "--dev", data, "--augment", "3", "--output", str(tmp_path)]
    more = ["--", "--model", str(tiny), "--max-length", "40", "--window-overlap", "8", "--max-question-tokens", "8"]
    assert teach.main([*arguments, *more]) == 0
    folders = [tmp_path / name for name in ("adapters", "every-weight", "adapters-taught-by-both")]
    configs = [read(folder / "config.json") for folder in folders]
    assert [config["teachers"] for config in configs] == ["", "", f"{folders[0]},{folders[1]}"]
    assert [config["lora_rank"] for config in configs] == [8, 0, 8]
    assert [config["augment"] for config in configs] == [3, 3, 3]
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert f'always "" has F1 {100 * 8 / 24:.2f} on dev' in table.replace("\n", " ")
    rows = table.splitlines()[-3:]
    for row, folder in zip(rows, folders, strict=True):
        crossfit = read(folder / "metrics.json")["crossfit"]
        assert row.split(" | ")[3].startswith(f"{crossfit['f1']:.2f} (")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert teach.main([*arguments, *more]) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    with pytest.raises(ValueError, match="holds this experiment with augment 3 instead of 4"):
        teach.main([*arguments[:4], "--augment", "4", *arguments[6:], *more])


@pytest.mark.parametrize("name", NAMES)
def test_each_experiment_lists_its_options_and_is_in_the_overview(name, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["experiments", name, "--help"])
    with pytest.raises(SystemExit) as end:
        overview.main()
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: python -m experiments {name}" in shown
    assert "--output DIR" in shown
    assert f"python -m experiments {name} " in overview.__doc__
    assert f"python -m experiments {name} " in (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


def test_a_run_that_fails_gives_its_last_line(tiny, tmp_path):
    message = r"train.py ended with status 2: train.py: --epochs is -1, .*; all of its output is in .*run.txt"
    with pytest.raises(ValueError, match=message):
        scripts.trained(tmp_path / "run", ["--model", str(tiny), "--epochs=-1"])


@pytest.mark.parametrize("given", [["--lora-rank", "4"], ["--train=x.json"], ["--output", "x"]])
def test_flags_that_an_experiment_sets_itself_are_refused(given, tiny, tmp_path):
    more = ("--ranks", "1", "--rates", "1e-3", "--output", str(tmp_path))
    with pytest.raises(ValueError, match=f"^{given[0]} after --: this experiment sets that itself"):
        ablate.main([*on_tiny(tiny, *more), *given])
    assert not list(tmp_path.iterdir())  # so that the folder is free for the right ones


def test_no_run_begins_before_all_flags_are_known_to_be_free(tiny, tmp_path):
    """--null-weight is changed by the last runs of `recipe` only."""
    with pytest.raises(ValueError, match="--null-weight after --: this experiment sets that itself"):
        recipe.main([*on_tiny(tiny, "--output", str(tmp_path)), "--null-weight", "2"])
    with pytest.raises(ValueError, match="--eval-every after --: this experiment sets that itself"):
        compare.main([*on_tiny(tiny, "--output", str(tmp_path)), "--eval-every", "20"])
    assert not list(tmp_path.iterdir())


def test_questions_that_all_have_an_answer_are_judged_by_always_answering(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "TARGETS", {"query, value": "attention"})
    more = ("--ranks", "1", "--rates", "1e-3", "--output", str(tmp_path))
    assert ablate.main([*on_tiny(tiny, *more), "--answerable-only"]) == 0
    [row] = read(tmp_path / "results.json")
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "chosen by the F1 when always answering" in table
    assert f"| {common.with_interval(row['dev']['always_answer'], 'f1')} |" in table


def test_dev_is_reported_at_the_threshold_of_the_held_out_part():
    other = {"f1": 1.0, "f1_interval": [0.0, 2.0]}
    dev = {"NoAns_exact": 9.0, "f1": 50.0, "f1_interval": [40.0, 60.0], "crossfit": other, "always_answer": other}
    assert ablate.COLUMNS["dev F1"]({"dev": dev}) == compare.COLUMNS["dev F1"]({"dev": dev}) == "50.00 (40.0-60.0)"


@pytest.mark.parametrize(
    ("experiment", "given", "message"),
    [
        (ablate, ["--five", "--ranks", "2"], "--ranks changes nothing with --five or --gpt"),
        (ablate, ["--gpt", "x", "--ranks", "2"], "--ranks changes nothing with --five or --gpt"),
        (ablate, ["--gpt", "x", "--five"], "--five changes nothing with --gpt"),
        (ablate, ["--gpt", "x", "--", "--learn", "text"], "--learn after --: this experiment sets that itself"),
        (teach, ["--train", "excerpt"], "--train excerpt: each run would take as much of it as it has time for"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(experiment, given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        experiment.main(["--output", str(tmp_path / "out"), *given])
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_there_is_one_line_from_a_worker_too(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"^no/such/model: no such folder"):
        padding.main(["--gpt", "no/such/model", "--train", str(tiny / "squad.json"), "--output", str(tmp_path / "out")])


def test_a_question_cannot_break_the_table():
    shown = {"before": [[{"answer": "a|b", "score": 0.5}]], "after": [[{"answer": "", "score": 1.0}]]}
    *_, row = before_after.answers_table([{"question": "who | is\nvin?"}], shown).strip().splitlines()
    assert row == "| who is vin? | a b 50% | *none* 100% |"


def test_ctrl_c_ends_an_experiment_once_its_run_has_ended(tmp_path):
    """In a terminal the run has it too; here only the experiment, sent by the run, which then goes on to its end."""
    lines = ["import os, signal, time", "os.kill(os.getppid(), signal.SIGINT)", "time.sleep(0.5)", "print('done')"]
    (tmp_path / "run.py").write_text("\n".join(lines))
    # A shell that starts the tests in the background makes them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        end = scripts.timed([str(tmp_path / "run.py")], tmp_path / "run.txt")
    finally:
        signal.signal(signal.SIGINT, before)
    assert end.interrupted
    assert end.status == 0
    assert (tmp_path / "run.txt").read_text(encoding="utf-8") == "done\n"
    with pytest.raises(KeyboardInterrupt):
        scripts.check(end, tmp_path / "run")


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
    lora, full = read(tmp_path / "results.json")
    held = {path.parent.name: common.held_f1(read(path)) for path in tmp_path.glob("LoRA-*/metrics.json")}
    assert held.keys() == {"LoRA-0.001", "LoRA-0.01"}
    assert held[f"LoRA-{lora['rate']:g}"] == max(held.values())
    assert full["parameters"]["share"] == 1.0
    saved = tmp_path / f"LoRA-{lora['rate']:g}" / "adapter" / "adapter_model.safetensors"
    assert lora["bytes"] == saved.stat().st_size
    assert full["bytes"] > lora["bytes"]
    assert lora["latency"].keys() == {"merged", "unmerged"}
    assert full["latency"].keys() == {"merged"}
    assert f'always "" has F1 {100 * 8 / 24:.2f} on dev' in (tmp_path / "results.md").read_text(
        encoding="utf-8"
    ).replace("\n", " ")
