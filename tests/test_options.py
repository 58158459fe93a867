"""train.py's options: flags, what a resumed run takes over, and mistakes in one line."""

import dataclasses
import subprocess
import sys

import pytest
from helpers import GOLDEN, ROOT, everything, flags, options_of, parse, read

import train
import train_gpt


def test_flags_are_the_fields_with_their_types():
    command = parse(["--lora-rank", "4", "--skip-bad", "--learning-rate", "2e-4"])
    options = command.options
    assert (options.lora_rank, options.skip_bad, options.learning_rate) == (4, True, 2e-4)
    assert (command.resume, command.evaluate) == (False, None)
    assert parse(["--no-skip-bad"]).options.skip_bad is False
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.seed = 1


def test_a_folder_that_holds_a_run_is_refused_before_anything_takes_time(run, tiny, monkeypatch):
    monkeypatch.setattr(train, "prepare", None)
    with pytest.raises(ValueError, match="already holds a run"):
        train.main(flags(tiny, run))


def test_an_evaluation_takes_the_place_of_another_but_not_of_a_run(run, tiny, tmp_path):
    before = everything(run)
    for given in ([], ["--model", str(tiny)]):
        with pytest.raises(ValueError, match=f"{run} already holds a run"):
            train.main(["--evaluate", str(run), "--output", str(run), *given])
    assert everything(run) == before
    for _ in range(2):
        assert train.main(["--evaluate", str(run), "--output", str(tmp_path / "again")]) == 0
    whole = everything(tmp_path / "again")
    for path in (tmp_path / "again").glob("[!c]*"):  # as a kill between the renames of the first one leaves it
        path.unlink()
    assert train.main(["--evaluate", str(run), "--output", str(tmp_path / "again")]) == 0
    assert everything(tmp_path / "again") == whole


def test_a_mistyped_target_is_named(tiny, tmp_path):
    with pytest.raises(ValueError, match="target 'quer' matches no linear layer"):
        train.main(flags(tiny, tmp_path / "out", "--lora-targets", "quer"))
    assert not (tmp_path / "out").exists()


def test_an_evaluation_does_not_replace_the_config_of_a_model(run, tiny):
    before = everything(tiny)
    with pytest.raises(ValueError, match=f"{tiny} already holds a run or a model"):
        train.main(["--evaluate", str(run), "--output", str(tiny)])
    assert everything(tiny) == before


def test_a_mistyped_train_file_is_found_before_anything_takes_time(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load_model", None)
    arguments = flags(tiny, tmp_path / "out")
    arguments[arguments.index("--train") + 1] = "nowhere.json"
    with pytest.raises(ValueError, match=r"nowhere\.json: no such file"):
        train.main(arguments)


def test_resume_takes_the_runs_options_and_flags_win(run):
    command = parse(["--resume", str(run), "--epochs", "7"])
    options = command.options
    assert (command.resume, options.epochs, options.learning_rate, options.output) == (True, 7, 0.02, str(run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1.5"], "argument --seed: invalid int value: '1.5'"),
        (["--epochs=-1"], "--epochs is -1, expected at least 0"),
        (["--learning-rate", "nan"], "--learning-rate is nan, expected a number above 0"),
        (["--dropout", "1"], "--dropout is 1.0, expected at least 0 and below 1"),
        (["--train", "nowhere.json"], "nowhere.json: no such file"),
        (["--model", "no/such/model"], "no/such/model: no such folder"),
        (["--model", str(GOLDEN / "tiny")], "no tokenizer.json and no vocab.txt"),
        (["--batch-size", str(10**400)], "--batch-size is 1000"),
        (["--resume", "nowhere"], "nowhere/config.json: cannot be read"),
        (["--evaluate", "nowhere"], "nowhere/config.json: cannot be read"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(arguments, message, tmp_path):
    arguments = ["--output", str(tmp_path / "out"), *arguments]
    done = subprocess.run([sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("train.py: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_resume_that_does_not_fit_leaves_the_run_as_it_was(tiny, tmp_path):
    folder = tmp_path / "run"
    assert train.main(flags(tiny, folder, "--epochs", "1")) == 0
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match="--lora-rank 8 -> 4: cannot change in a resumed run"):
        train.main(["--resume", str(folder), "--lora-rank", "4"])
    assert (folder / "config.json").read_bytes() == before
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="found a list, expected an object; expected the options of a run"):
        train.main(["--resume", str(folder)])


def test_an_evaluation_cannot_be_resumed(run, tmp_path):
    folder = tmp_path / "evaluation"
    assert train.main(["--evaluate", str(run), "--output", str(folder)]) == 0
    before = everything(folder)
    with pytest.raises(ValueError, match=f"{folder} holds an evaluation, expected a run"):
        train.main(["--resume", str(folder)])
    assert everything(folder) == before


@pytest.mark.parametrize(("given", "epochs"), [([], 1), (["--train", "x.json"], 2), (["--epochs", "3"], 3)])
def test_default_epochs(given, epochs):
    assert options_of(given).epochs == epochs


def test_defaults_that_depend_on_others_are_resolved_once():
    assert options_of([]).output.startswith("runs/2")
    assert options_of(["--epochs", "5", "--output", "x"]).resolved() == options_of(["--epochs", "5", "--output", "x"])


FIXED = {"seed", "max_train_examples", "answerable_only", "max_length", "lora_rank", "lora_alpha", "lora_targets"}
FIXED |= {"batch_size", "gradient_accumulation_steps"}  # of both scripts


@pytest.mark.parametrize(
    ("options", "own"),
    [
        (train.Options, {"skip_bad", "augment", "leave_out", "window_overlap", "max_question_tokens", "teachers"}),
        (train_gpt.Options, {"learn", "silence"}),
    ],
)
def test_what_would_make_a_checkpoint_meaningless_is_fixed(options, own):
    assert {field.name for field in dataclasses.fields(options) if field.metadata.get("fixed")} == FIXED | own


def test_every_option_marked_as_fixed_is_refused_in_a_resumed_run(run):
    saved = read(run / "config.json")
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 0.5, str: lambda v: "query"}
    for field in dataclasses.fields(train.Options):
        if not field.metadata.get("fixed"):
            continue
        value = other[field.type](saved[field.name])
        flag = "--" + field.name.replace("_", "-")
        arguments = [flag if value else f"--no-{flag[2:]}"] if field.type is bool else [flag, str(value)]
        with pytest.raises(ValueError, match=f"^{flag} .* -> .*: cannot change in a resumed run"):
            parse(["--resume", str(run), *arguments])
