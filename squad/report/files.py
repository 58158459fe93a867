"""The files of a finished run, read and compared with one another and with the questions."""

from dataclasses import dataclass
from pathlib import Path

from minihub import json_type, parse_object, read_object
from squad.calibration import MOST_BONUS
from squad.dataset import load_examples
from squad.download import find_data
from squad.evaluation import LARGEST_FILE, LINES, METRICS, NBEST, NULL_ODDS, PREDICTIONS, headline_name
from squad.examples import DataError, Example
from squad.metrics import question_scores
from squad.scoring import Normalize, find_scoring
from squad.spans import Predictions, apply_threshold

LARGEST = 1e100  # of any figure: a larger one is a mistake, and would overflow in a chart
COVERAGE = ("answerable", "threshold", "answered", "right", "answered_there", "right_there")


@dataclass(frozen=True)
class RunFiles:
    """What a run has left.

    figures: metrics.json, checked.
    log: the lines of log.jsonl; None when there is no such file (an evaluation has none).
    given: the answers at the run's threshold, by id.
    normalize: how the run's answers were compared.
    """

    name: str
    config: dict
    figures: dict
    log: list[dict] | None
    examples: list[Example]
    predictions: Predictions
    given: dict[str, str]
    normalize: Normalize


def read_run(folder: str | Path, dev: str | None = None) -> RunFiles:
    """Read the folder of a run of train.py, or the `evaluation` in it.

    Args: dev: the SQuAD file that was evaluated on; None: the one that config.json names.
    Raises DataError when a file is missing or malformed, or the files do not belong to one run on these questions.
    """
    folder = Path(folder)
    if not (folder / METRICS).is_file():
        raise DataError(f"{folder / METRICS}: no such file; give the folder of a run that has been evaluated")
    names = ("config.json", METRICS, NBEST, NULL_ODDS, PREDICTIONS)
    config, metrics, nbest, odds, given = (read_object(folder / name, DataError, LARGEST_FILE) for name in names)
    figures = read_figures(metrics, str(folder / METRICS))
    normalize = _normalize(metrics, str(folder / METRICS))
    log = read_log(folder / "log.jsonl")
    examples = _read_dev(dev, config, folder)
    for name, content in ((NBEST, nbest), (NULL_ODDS, odds), (PREDICTIONS, given)):
        _check_ids(content, examples, str(folder / name))
    answers = {e.id: best_span(nbest[e.id], e, f"{folder / NBEST}: {e.id!r}") for e in examples}
    odds = {id: _number(value, f"{folder / NULL_ODDS}: {id!r}") for id, value in odds.items()}
    predictions = Predictions(answers, odds, nbest)
    if given != apply_threshold(predictions, figures["threshold"]):
        raise DataError(f"{folder}: {PREDICTIONS} is not what the other files give at the threshold of {METRICS}")
    exact = 100 * float(question_scores(examples, given, normalize)[0].mean())
    if abs(exact - figures["rows"][""]["exact"]) > 1e-6:
        raise DataError(
            f"{folder}: {METRICS} says EM {figures['rows']['']['exact']:.2f}, its predictions score {exact:.2f} on "
            "these questions; give the file it was evaluated on with --dev"
        )
    return RunFiles(_name(folder), config, figures, log, examples, predictions, given, normalize)


def _normalize(metrics: dict, where: str) -> Normalize:
    try:
        return find_scoring(metrics.get("scoring", "official"), metrics.get("language", "")).normalize
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: {error}") from error


def read_figures(metrics: dict, where: str) -> dict:
    """threshold, tuned_here, calibration and the rows of the table (those there are, by the names in LINES), checked.

    Args: metrics: as `squad.evaluate` returns them; where: what the message of an error begins with.
    """
    tuned = metrics.get("threshold_is_tuned_here", True)
    if not isinstance(tuned, bool):
        raise DataError(f"{where}: threshold_is_tuned_here is {str(tuned)[:60]}, expected true or false")
    rows = {}
    for name in LINES:
        if name in metrics or not name:
            row = _object(metrics, name, where) if name else metrics
            rows[name] = _row(row, f"{where}: {name}" if name else where)
    if missing := [name for name in ("at_zero", "always_answer", "always_empty") if name not in rows]:
        raise DataError(f"{where}: {missing[0]} is missing, expected an object")
    trust = _object(metrics, "calibration", where)
    names = ["temperature", "ece_before", "ece_after", *({"ece_crossfit"} & trust.keys())]
    trust = {"best_bonus": 0.0} | trust  # runs of before it was fitted
    names.append("best_bonus")
    trust = {name: _number(trust.get(name), f"{where}: calibration: {name}") for name in names}
    if not 1e-3 <= trust["temperature"] <= 1e3:
        raise DataError(f"{where}: calibration: temperature is {trust['temperature']}, expected 0.001 to 1000")
    if not 0 <= trust["best_bonus"] <= MOST_BONUS:
        raise DataError(f"{where}: calibration: best_bonus is {trust['best_bonus']}, expected 0 to {MOST_BONUS}")
    threshold = _number(metrics.get("threshold"), f"{where}: threshold")
    figures = {"threshold": threshold, "tuned_here": tuned, "calibration": trust, "rows": rows}
    figures["headline"] = headline_name(metrics)
    return figures | {"coverage": _coverage(metrics, where)}


def _coverage(metrics: dict, where: str) -> list[dict[str, float]]:
    """The rows of `squad.prior.coverage`; none when the run has not tuned its own threshold."""
    if "prior" not in metrics:
        return []
    rows = _object(metrics, "prior", where).get("coverage")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{where}: prior: coverage is {str(rows)[:60]}, expected a list of objects")
    return [{name: _number(row.get(name), f"{where}: prior: {name}") for name in COVERAGE} for row in rows]


def read_log(path: Path) -> list[dict] | None:
    """The lines of a log.jsonl, their figures checked; None when there is no such file."""
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return [_log_line(line, f"{path}: line {i}") for i, line in enumerate(lines, 1)]


def best_span(entries: object, example: Example, where: str) -> str:
    """The text of the best span in a question's n-best list, "" when there is none.

    Raises DataError when `squad.decode` cannot have made this list for this question.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{where}: expected a list of answers")
    for entry in entries:
        _number(entry.get("score"), f"{where}: score")
        text, start, end = (entry.get(name, "missing") for name in ("text", "start", "end"))
        if start is None and text == "":
            continue
        whole = isinstance(start, int) and isinstance(end, int) and isinstance(text, str)
        if not whole or not 0 <= start <= end or example.context[start:end] != text:
            raise DataError(f"{where}: {str(text)[:60]!r} at {start} is not in its text; is this the evaluated file?")
    if sum(entry["start"] is None for entry in entries) != 1:
        raise DataError(f'{where}: expected the answer "" once')
    return next((entry["text"] for entry in entries if entry["start"] is not None), "")


def _read_dev(dev: str | None, config: dict, folder: Path) -> list[Example]:
    named = dev or config.get("dev")
    if not isinstance(named, str):
        raise DataError(f"{folder / 'config.json'}: dev is missing, expected a SQuAD file's name; give --dev")
    try:
        path = find_data(named, "dev")
    except DataError as error:
        raise DataError(str(error) if dev else f"{error}; the run's config.json names it: give --dev") from error
    limit = config.get("max_dev_examples", 0)
    if not isinstance(limit, int) or limit < 0:
        raise DataError(f"{folder / 'config.json'}: max_dev_examples is {str(limit)[:60]}, expected a number from 0 on")
    left_out: list[str] = []
    on_error = left_out.append if config.get("skip_bad") else None
    return load_examples(path, limit, bool(config.get("answerable_only")), on_error)[0]


def _check_ids(content: dict, examples: list[Example], where: str) -> None:
    ids = {example.id for example in examples}
    strange = [id for id in content if id not in ids]
    missing = [example.id for example in examples if example.id not in content]
    if strange:
        raise DataError(f"{where}: {len(strange)} ids are not in the data, the first {strange[0][:60]!r}; give --dev")
    if missing or not ids:
        raise DataError(f"{where}: {len(missing)} of {len(ids)} questions are missing, the first {missing[:1]}")


def _log_line(line: str, where: str) -> dict:
    content = parse_object(line, where, DataError)
    needed = ("step", "lr") if "loss" in content else ("step", "f1") if "exact" in content else ()
    for name in {*needed, *({"loss", "exact", "spikes", "skipped"} & content.keys())}:
        _number(content.get(name), f"{where}: {name}")
    return content


def _row(row: dict, where: str) -> dict:
    figures = {name: _number(row.get(name), f"{where}: {name}") for name in ("exact", "f1")}
    for name in ("HasAns_f1", "NoAns_f1"):
        if name in row:
            figures[name] = _number(row[name], f"{where}: {name}")
    for name in ("exact_interval", "f1_interval"):
        ends = row.get(name)
        if not isinstance(ends, list) or len(ends) != 2:
            raise DataError(f"{where}: {name} is {str(ends)[:60]}, expected two numbers")
        figures[name] = tuple(_number(end, f"{where}: {name}") for end in ends)
    return figures


def _number(value: object, where: str) -> float:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not abs(value) <= LARGEST:  # nor is NaN
        raise DataError(f"{where} is {'missing' if value is None else str(value)[:60]}, expected a number")
    return float(value)


def _object(content: dict, name: str, where: str) -> dict:
    if not isinstance(content.get(name), dict):
        found = json_type(content[name]) if name in content else "missing"
        raise DataError(f"{where}: {name} is {found}, expected an object")
    return content[name]


def _name(folder: Path) -> str:
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name == "evaluation" else folder.name
