"""How much a run takes on: what fits into its time, kept in config.json."""

import itertools
import json
from types import SimpleNamespace

import pytest
import torch
from helpers import add_lora, flags, read

import minirun
import squad
import train
from minirun.pace import fit_to_time, seconds_per_window
from squad.report.files import read_run

CPU = torch.device("cpu")
MADE = "max_train_examples", "augment", "leave_out"


@pytest.mark.parametrize(
    ("seconds_each", "number"),
    [(0.01, 15_000), (0.02, 15_000), (0.0201, 14_000), (0.1, 3_000), (0.149, 2_000), (0.2, 2_000), (9.0, 2_000)],
)
def test_as_many_thousands_as_fit_between_the_limits(seconds_each, number, capsys):
    assert fit_to_time(seconds_each, seconds=300, least=2_000, most=15_000) == number
    out = capsys.readouterr().out
    assert f"trains on {number:,} questions in about " in out
    assert ("OMP_NUM_THREADS" in out) == (seconds_each * number > 300)


def test_measuring_changes_nothing(model):
    add_lora(model, 2, 4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    assert seconds_per_window(model, CPU, torch.float32, shape=(3, 7), seconds=0.0) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert seconds_per_window(model.train(), CPU, torch.float32, shape=(3, 7), seconds=0.0) > 0  # as train.py does
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_the_time_is_that_of_one_window(model, monkeypatch):
    def measured(B):
        # A clock that moves on by a second whenever it is looked at, but by a hundred in the first pass.
        ticks = itertools.chain((0, 1), itertools.count(101))
        monkeypatch.setattr("minirun.pace.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
        return seconds_per_window(model, CPU, torch.float32, (B, 7), seconds=9.0)

    assert (measured(3), measured(6)) == (1 / 3, 1 / 6)


def on_excerpt(tiny, output, *more):
    """Flags for a run on the excerpt, which `excerpt_is_tiny` replaces by the tiny model's own data."""
    arguments = flags(tiny, output, *more)
    arguments[arguments.index("--train") + 1] = "excerpt"
    return arguments


@pytest.fixture
def excerpt_is_tiny(tiny, monkeypatch):
    monkeypatch.setattr(squad, "find_data", lambda name, split: tiny / "squad.json")


def test_a_run_on_the_excerpt_keeps_the_number_it_chose(tiny, tmp_path, monkeypatch, excerpt_is_tiny):
    monkeypatch.setattr(minirun, "seconds_per_window", lambda *_: 0.1)
    assert train.main(on_excerpt(tiny, tmp_path / "two", "--epochs", "2")) == 0
    assert read(tmp_path / "two" / "config.json")["max_train_examples"] == 1_800  # 1,000 fit; 1,800 are the least
    assert train.main(on_excerpt(tiny, tmp_path / "run")) == 0
    assert read(tmp_path / "run" / "config.json")["max_train_examples"] == 2_250  # and 375 of each kind are made

    def measure_again(*_):
        raise AssertionError("measured although the number is known")

    monkeypatch.setattr(minirun, "seconds_per_window", measure_again)
    assert train.main(["--resume", str(tmp_path / "run"), "--epochs", "2"]) == 0
    assert read(tmp_path / "run" / "config.json")["max_train_examples"] == 2_250  # and 375 of each kind are made
    assert train.main(["--evaluate", str(tmp_path / "run")]) == 0
    assert [read(tmp_path / "run" / "config.json")[k] for k in MADE] == [2_250, 375, 375]
    assert train.main(on_excerpt(tiny, tmp_path / "given", "--max-train-examples", "7")) == 0
    assert read(tmp_path / "given" / "config.json")["max_train_examples"] == 7
    monkeypatch.setattr(minirun, "seconds_per_window", lambda *_: 0.02)
    assert train.main(on_excerpt(tiny, tmp_path / "fast")) == 0
    assert [read(tmp_path / "fast" / "config.json")[k] for k in MADE] == [11_250, 1_875, 1_875]
    assert train.main(on_excerpt(tiny, tmp_path / "more", "--augment", "4000")) == 0
    assert [read(tmp_path / "more" / "config.json")[k] for k in MADE] == [9_125, 4_000, 1_875]  # 15,000 in all
    assert train.main(on_excerpt(tiny, tmp_path / "most", "--augment", "20000")) == 0
    assert [read(tmp_path / "most" / "config.json")[k] for k in MADE] == [3_750, 20_000, 1_875]
    taught = ("--teachers", f"{tmp_path / 'two'}, {tmp_path / 'given'}")  # to ask each takes a third of the time
    assert train.main(on_excerpt(tiny, tmp_path / "taught", *taught)) == 0
    assert [read(tmp_path / "taught" / "config.json")[k] for k in MADE] == [6_750, 1_125, 1_125]  # 9,000 in all
    assert train.main(on_excerpt(tiny, tmp_path / "answerable", "--answerable-only")) == 0
    assert [read(tmp_path / "answerable" / "config.json")[k] for k in MADE] == [15_000, 0, 0]
    assert train.main(flags(tiny, tmp_path / "file")) == 0
    assert read(tmp_path / "file" / "config.json")["max_train_examples"] == 0


def test_a_slow_run_takes_smaller_steps_and_is_judged_on_fewer_questions(
    tiny, tmp_path, monkeypatch, excerpt_is_tiny, capsys
):
    """The first 5 of its 8 dev questions; --resume and --evaluate keep that, another --dev is taken whole."""
    monkeypatch.setattr(train, "SLOW", {"batch_size": 3, "max_dev_examples": 5})
    monkeypatch.setattr(minirun, "seconds_per_window", lambda *_: 9.0)
    run, questions = tmp_path / "run", squad.read_examples(tiny / "squad.json")
    arguments = on_excerpt(tiny, run, "--dev", "excerpt")
    at = arguments.index("--batch-size")
    assert train.main(arguments[:at] + arguments[at + 2 :]) == 0
    assert [read(run / "config.json")[name] for name in ("batch_size", "max_dev_examples")] == [3, 5]
    assert list(read(run / "predictions.json")) == [e.id for e in questions[:5]]
    assert "that is few: it will begin" in capsys.readouterr().out
    assert train.main(["--resume", str(run), "--epochs", "2"]) == 0
    assert [read(run / "config.json")[name] for name in ("batch_size", "max_dev_examples")] == [3, 5]
    assert list(read(run / "predictions.json")) == [e.id for e in questions[:5]]
    assert train.main(["--evaluate", str(run)]) == 0
    assert len(read(run / "evaluation" / "predictions.json")) == 5
    read_run(run, str(tiny / "squad.json"))  # whose questions are those that were evaluated on
    config = read(run / "config.json")
    (run / "config.json").write_text(json.dumps({**config, "max_dev_examples": 0}))
    with pytest.raises(squad.DataError, match="questions are missing"):
        read_run(run, str(tiny / "squad.json"))
    (run / "config.json").write_text(json.dumps(config))
    assert train.main(["--evaluate", str(run), "--dev", str(tiny / "squad.json")]) == 0
    assert len(read(run / "evaluation" / "predictions.json")) == len(questions) > 5
    assert train.main([*on_excerpt(tiny, tmp_path / "given"), "--dev", "excerpt", "--max-dev-examples", "3"]) == 0
    assert len(read(tmp_path / "given" / "predictions.json")) == 3
    assert read(tmp_path / "given" / "config.json")["batch_size"] == 4  # as given
    assert train.main(on_excerpt(tiny, tmp_path / "whole")) == 0  # with a --dev of one's own
    assert len(read(tmp_path / "whole" / "predictions.json")) == len(questions)


def test_a_mistyped_dev_file_is_an_error_before_the_speed_is_measured(tiny, tmp_path, monkeypatch):
    def measure(*_):
        raise AssertionError("measured although the dev file is missing")

    monkeypatch.setattr(minirun, "seconds_per_window", measure)
    with pytest.raises(squad.DataError, match=r"^nowhere.json: no such file$"):
        train.main([*on_excerpt(tiny, tmp_path / "run"), "--dev", "nowhere.json"])
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_keeps_the_questions_it_began_with(tiny, tmp_path, monkeypatch, excerpt_is_tiny):
    """A run of several processes takes all questions; resumed by one it must not measure how many fit."""
    monkeypatch.setattr(minirun, "fit_to_time", lambda *_, **__: 0)
    assert train.main(on_excerpt(tiny, tmp_path / "run")) == 0
    monkeypatch.setattr(minirun, "fit_to_time", lambda *_, **__: 2_000)
    assert train.main(["--resume", str(tmp_path / "run"), "--epochs", "2"]) == 0
    assert read(tmp_path / "run" / "config.json")["max_train_examples"] == 0


def test_made_questions_have_no_answer_so_answerable_only_refuses_them(tiny, tmp_path):
    with pytest.raises(ValueError, match="--augment and --leave-out make what --answerable-only leaves out"):
        train.main(flags(tiny, tmp_path / "run", "--leave-out", "3", "--answerable-only"))
