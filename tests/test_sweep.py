"""experiments/sweep.py: its search space, which trials count, and whole sweeps on a tiny model."""

import shlex
import types
from pathlib import Path

import pytest
from helpers import on_tiny, parse, read, read_log

from experiments import sweep


@pytest.mark.parametrize("name", ["space.toml", "space-full.toml"])
def test_the_example_spaces_are_flags_of_train(name):
    space = sweep.read_space(Path(sweep.__file__).parent / name)
    trial = types.SimpleNamespace(
        suggest_categorical=lambda name, choices: choices[-1],
        suggest_int=lambda name, low, high, log: high,
        suggest_float=lambda name, low, high, log: low,
    )
    values = sweep.proposed(trial, space)
    options = parse(sweep.flags_of(values)).options
    for flag, value in values.items():
        assert getattr(options, flag.replace("-", "_")) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a", "cannot be read as TOML"),
        ("rate = 3", r"\[rate\] is 3, expected choices, or low, high"),
        ("[rate]\nlow = 3", r"\[rate\] is {'low': 3}, expected choices, or low, high"),
        ("[rate]\nlow = 3\nhigh = 4\nstep = 1", r"expected choices, or low, high"),
        ("[rate]\nlow = 'a'\nhigh = 4", r"\[rate\] goes from 'a' to 4, expected two numbers"),
        ("[rate]\nlow = 5\nhigh = 4", r"\[rate\] goes from 5 to 4, expected low below high"),
        ("[rate]\nlow = 0\nhigh = 4\nlog = true", r"\[rate\] starts at 0, expected more than 0 with log"),
        ("[rate]\nchoices = []", r"\[rate\] has the choices \[\], expected a list of at least one"),
        ("[rate]\nchoices = 5", r"\[rate\] has the choices 5, expected a list"),
    ],
)
def test_spaces_that_are_none(tmp_path, text, message):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        sweep.read_space(tmp_path / "space.toml")


@pytest.mark.filterwarnings("ignore")
def test_a_sweep_reports_its_best_and_goes_on(tiny, tmp_path, capsys):
    pytest.importorskip("optuna")
    (tmp_path / "space.toml").write_text("[learning-rate]\nlow = 1e-3\nhigh = 1e-2\nlog = true\n")
    more = ("--space", str(tmp_path / "space.toml"), "--epochs", "2", "--output", str(tmp_path / "out"))
    assert sweep.main(on_tiny(tiny, "--trials", "1", *more)) == 0
    assert sweep.main(on_tiny(tiny, "--trials", "2", *more)) == 0
    rows = read(tmp_path / "out" / "results.json")
    assert [row["number"] for row in rows] == [0, 1]
    assert f'always "" has F1 {100 * 8 / 24:.2f} on dev' in (tmp_path / "out" / "results.md").read_text(
        encoding="utf-8"
    ).replace("\n", " ")
    best = max((row for row in rows if row["f1"] is not None), key=lambda row: row["f1"])
    line = capsys.readouterr().out.strip().splitlines()[-1]
    python, script, *pasted = shlex.split(line)
    assert (python, script) == ("python", "train.py")
    options = parse(pasted).options
    assert options.learning_rate == pytest.approx(best["learning-rate"], rel=1e-3)
    assert (options.train, options.dev) == (str(tiny / "squad.json"),) * 2


def test_a_run_that_lags_behind_is_stopped(tiny, tmp_path):
    optuna = pytest.importorskip("optuna")
    reports = []
    trial = types.SimpleNamespace(
        number=7,
        suggest_float=lambda name, low, high, log: low,
        report=lambda f1, number: reports.append((number, f1)),
        should_prune=lambda: len(reports) == 2,
    )
    data = ["--train", str(tiny / "squad.json"), "--dev", str(tiny / "squad.json")]
    of_runs = on_tiny(tiny)[on_tiny(tiny).index("--") + 1 :]
    options = types.SimpleNamespace(output=tmp_path, epochs=1000, flags=of_runs)
    with pytest.raises(optuna.TrialPruned):
        sweep.run_trial(trial, {"learning-rate": {"low": 0.002, "high": 0.02}}, data, options)
    found = [line["f1"] for line in read_log(tmp_path / "trial-7") if "f1" in line]
    assert reports == list(enumerate(found[:2]))
    assert len(found) < 1000
    assert read(tmp_path / "trial-7" / "config.json")["learning_rate"] == 0.002


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


def test_a_sweep_is_judged_after_each_epoch_and_not_between(tiny, tmp_path):
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match="--eval-every after --: this experiment sets that itself"):
        sweep.main([*on_tiny(tiny, "--output", str(tmp_path / "out")), "--eval-every", "50"])


@pytest.mark.filterwarnings("ignore")
def test_a_sweep_whose_runs_fail_ends_and_says_why(tiny, tmp_path, capsys):
    pytest.importorskip("optuna")
    (tmp_path / "space.toml").write_text("[learning-rate]\nlow = -2.0\nhigh = -1.0\n")
    more = ("--space", str(tmp_path / "space.toml"), "--output", str(tmp_path / "out"), "--trials", "9")
    with pytest.raises(ValueError, match=r"train.py failed in three trials"):
        sweep.main(on_tiny(tiny, *more))
    assert capsys.readouterr().out.count("fail, train.py ended with status 2: train.py: --learning-rate is -") == 3
