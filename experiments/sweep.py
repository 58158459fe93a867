"""A Bayesian search over train.py's flags: Optuna's TPE proposes, its median pruner stops what lags behind.

Each trial is a run of train.py in a process of its own. It is judged by the cross-fitted F1 on held-out train articles,
reported after each epoch; a pruned run is sent SIGTERM. The study is kept in SQLite: after a stop it continues with the
next trial, and the same command in a second terminal takes part in it.
"""

import json
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from collections.abc import Sequence
from pathlib import Path

from experiments import common, scripts
from minihub import read_object

FINISHED = "COMPLETE"
HEARTBEAT = 5  # seconds; a trial without one for twice as long counts as killed


def main(argv: Sequence[str]) -> int:
    parser = common.parser("sweep", __doc__)
    add = parser.add_argument
    add("--space", metavar="FILE", type=Path, default=Path(__file__).parent / "space.toml", help="what to search")
    add("--trials", type=common.positive, default=25, metavar="N", help="trials in all, earlier ones counted (25)")
    add("--epochs", type=common.positive, default=3, metavar="N", help="of each trial, judged after each (3)")
    options = parser.parse_args(argv)
    optuna = import_optuna()
    space = read_space(options.space)
    options.searched = json.dumps(space)  # so that another space counts as another experiment
    own = ["--epochs", "--eval-every", *(f"--{flag}" for flag in space)]
    data = common.prepare_data(options, [own], may_change=("trials", "space"))
    study = open_study(optuna, options.output)
    while trials_left(optuna, study, options.trials):
        study.optimize(lambda t: objective(t, space, data, options), n_trials=1, catch=(ValueError,), callbacks=[tell])
    if any(trial.state.name == "RUNNING" for trial in study.trials):
        print("another process is still at a trial and will end with the table; if it was killed, start this again")
        return 0
    with common.alone(options.output):
        finish(optuna, study, options, data)
    return 0


def open_study(optuna, folder: Path):
    """The study in this folder; the first process creates it and seeds its random numbers."""
    database = folder / "study.db"
    with common.alone(folder):
        seed = None if database.exists() else 0
        storage = optuna.storages.RDBStorage(f"sqlite:///{database}", heartbeat_interval=HEARTBEAT)
        return optuna.create_study(
            study_name="sweep", storage=storage, load_if_exists=True, direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed), pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        )  # fmt: skip


def trials_left(optuna, study, trials: int) -> bool:
    """Whether another trial is needed; those of other processes count, those stopped or killed do not.

    Raises ValueError when train.py failed in three of them.
    """
    optuna.storages.fail_stale_trials(study)
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    if sum("error" in trial.user_attrs for trial in failed) > 2:
        raise ValueError("train.py failed in three trials; what it said is in the trial-*.txt files")
    return len(study.trials) - len(failed) < trials


def tell(study, trial) -> None:
    said = trial.user_attrs.get("error") or f"F1 {trial.value:.2f}"
    print(f"trial {trial.number}: {trial.state.name.lower()}, {said}, {' '.join(flags_of(trial.params))}", flush=True)


def import_optuna():
    try:
        import optuna
    except ImportError as error:
        raise ValueError("the sweep needs Optuna: pip install -e '.[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # tell() prints the result of a trial
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of heartbeats and PED-ANOVA
    return optuna


def read_space(path: Path) -> dict[str, dict]:
    """The search space. Raises ValueError for an entry that is neither a range (low, high, log) nor choices."""
    try:
        space = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as TOML ({error})") from error
    for flag, where in space.items():
        known = isinstance(where, dict) and (where.keys() == {"choices"} or {"low", "high"} <= where.keys())
        if not known or where.keys() - {"choices", "low", "high", "log"}:
            raise ValueError(f"{path}: [{flag}] is {where}, expected choices, or low, high and perhaps log = true")
        if "choices" in where and not (isinstance(where["choices"], list) and where["choices"]):
            raise ValueError(f"{path}: [{flag}] has the choices {where['choices']!r}, expected a list of at least one")
        if "low" in where:
            _check_range(where["low"], where["high"], where.get("log", False), f"{path}: [{flag}]")
    return space


def _check_range(low: object, high: object, log: object, where: str) -> None:
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in (low, high)):
        raise ValueError(f"{where} goes from {low!r} to {high!r}, expected two numbers")
    if not low < high:
        raise ValueError(f"{where} goes from {low} to {high}, expected low below high")
    if log and low <= 0:
        raise ValueError(f"{where} starts at {low}, expected more than 0 with log = true")


def proposed(trial, space: dict[str, dict]) -> dict[str, float | int | str]:
    """The flags and values that this trial tries. A range between whole numbers gives whole numbers."""
    values = {}
    for flag, where in space.items():
        if "choices" in where:
            values[flag] = trial.suggest_categorical(flag, where["choices"])
        elif isinstance(where["low"], int) and isinstance(where["high"], int):
            values[flag] = trial.suggest_int(flag, where["low"], where["high"], log=where.get("log", False))
        else:
            values[flag] = trial.suggest_float(flag, where["low"], where["high"], log=where.get("log", False))
    return values


def flags_of(values: dict) -> list[str]:
    """Flag -> value, as words of a command line."""
    texts = {flag: f"{value:.4g}" if isinstance(value, float) else str(value) for flag, value in values.items()}
    return [word for flag, text in texts.items() for word in (f"--{flag}", text)]


def objective(trial, space: dict[str, dict], data: list[str], options) -> float:
    """`run_trial`, keeping its error, which tells a failed trial from one that was stopped."""
    try:
        return run_trial(trial, space, data, options)
    except ValueError as error:
        trial.set_user_attr("error", str(error))
        raise


def run_trial(trial, space: dict[str, dict], data: list[str], options) -> float:
    """Train with what the trial proposes, report every evaluation; F1 of the last. Raises TrialPruned, ValueError."""
    import optuna

    values = proposed(trial, space)
    folder = options.output / f"trial-{trial.number}"
    flags = [*data, "--epochs", str(options.epochs), *flags_of(values), *options.flags]
    command = [sys.executable, str(common.ROOT / "train.py"), *flags, "--output", str(folder)]
    with scripts.output_of(folder).open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for number, f1 in evaluations(folder, process):
            trial.report(f1, number)
            if number < options.epochs - 1 and trial.should_prune():
                raise optuna.TrialPruned
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
    if process.returncode:
        raise ValueError(scripts.last_output(process.returncode, folder))
    return common.held_f1(read_object(folder / "metrics.json"))


def evaluations(folder: Path, process: subprocess.Popen):
    """(0, F1), (1, F1), ... as the run writes its evaluations into log.jsonl, until it ends."""
    seen, path = 0, folder / "log.jsonl"
    while True:
        ended = process.poll() is not None
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line)["f1"] for line in lines if line.endswith("}") and '"f1"' in line]
        for f1 in found[seen:]:
            yield seen, f1
            seen += 1
        if ended:
            return
        time.sleep(0.5)


def finish(optuna, study, options, data: list[str]) -> None:
    """Table, importances, plots, the best command, and its score on dev."""
    rows = [
        {"number": t.number, "state": t.state.name, "f1": t.value, "seconds": t.duration.total_seconds(), **t.params}
        for t in study.trials
        if t.state.is_finished()
    ]
    best = study.best_trial
    folder = options.output / f"trial-{best.number}"
    held = read_object(folder / "metrics.json")
    scores = scripts.scored(folder, options.dev)
    dev = common.at_own_threshold(scores)
    weights = importances(optuna, study)
    listed = ", ".join(f"{flag} {weight:.0%}" for flag, weight in weights.items()) or "too few finished trials to tell"
    files = ["--train", str(options.train), "--dev", str(options.dev)]
    command = shlex.join(
        ["python", "train.py", *files, *flags_of(best.params), "--epochs", str(options.epochs), *options.flags]
    )
    questions, held_out = scripts.sizes(folder)
    notes = (
        f"{questions} questions of {Path(options.train).name}, {options.epochs} epochs, judged by "
        f"{common.judged_by(held)} on {held_out} questions of held-out articles. Best: trial {best.number}. "
        f"Importances (PED-ANOVA): {listed}. {Path(options.dev).name}, scored once for the best: EM "
        f"{common.with_interval(dev, 'exact')}, F1 {common.with_interval(dev, 'f1')}; "
        f"{common.silence(scores)}.\n\n    {command}"
    )
    columns = {
        "trial": lambda r: str(r["number"]),
        "state": lambda r: r["state"].lower(),
        "F1": lambda r: "-" if r["f1"] is None else f"{r['f1']:.2f}",
        **{name: lambda r, name=name: flags_of({name: r[name]})[1] if name in r else "-" for name in best.params},
        "seconds": lambda r: f"{r['seconds']:.0f}",
    }
    common.report(options.output, "A sweep of hyper-parameters", rows, columns, notes)
    common.draw(options.output / "sweep.png", lambda *axes: plot(*axes, rows, weights), panels=2, size=(10, 4))
    print(f"the best, ready to paste:\n    {command}")


def importances(optuna, study) -> dict[str, float]:
    """How much of the variation of F1 each flag explains; {} when too few trials have finished."""
    finished = [t for t in study.trials if t.state.name == FINISHED]
    if len(finished) < 4 or len({t.value for t in finished}) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def plot(history, bars, rows: list[dict], weights: dict[str, float]) -> None:
    """Every finished trial and the best so far; beside them the importances."""
    finished = [row for row in rows if row["state"] == FINISHED]
    best = [max(row["f1"] for row in finished[: i + 1]) for i in range(len(finished))]
    numbers = [row["number"] for row in finished]
    history.plot(numbers, [row["f1"] for row in finished], "o", label="finished trials")
    history.step(numbers, best, where="post", label="best so far")
    history.set(xlabel="trial", ylabel="F1 on held-out articles")
    history.legend()
    history.grid(alpha=0.3)
    bars.barh(list(weights), list(weights.values()))
    bars.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1))
