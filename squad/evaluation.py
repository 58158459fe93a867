"""Predictions -> every figure of an evaluation, the table for people, and the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from minihub import write_json
from squad.calibration import calibrate
from squad.causes import left_alone
from squad.examples import Example
from squad.metrics import (
    bootstrap_interval,
    check_complete,
    cross_fitted_answers,
    mean_scores,
    official_metrics,
    question_scores,
    tune_threshold,
)
from squad.prior import coverage, null_scale
from squad.scoring import OFFICIAL, Normalize, Scoring
from squad.spans import Predictions, apply_threshold

# The lines of the results table: where `evaluate` puts their figures ("": at the top), and what they are called.
LINES = {
    "crossfit": "cross-fitted threshold",
    "": "threshold tuned on this set",
    "at_zero": "threshold 0",
    "always_answer": "always answering",
    "always_empty": 'always "" (baseline)',
}

# The files of an evaluation.
METRICS, PREDICTIONS, NBEST, NULL_ODDS = (
    f"{name}.json" for name in ("metrics", "predictions", "nbest_predictions", "null_odds")
)
LARGEST_FILE = 2**31  # bytes; about 4,000 are written for a question


def evaluate(
    examples: Sequence[Example],
    predictions: Predictions,
    threshold: float | None = None,
    temperature: float | None = None,
    best_bonus: float = 0.0,
    scoring: Scoring = OFFICIAL,
    compared: Sequence[Scoring] = (),
    causes: Mapping[str, str] | None = None,
) -> dict:
    """Every figure of one evaluation.

    Args:
        predictions: for each example, of always answering, with the n-best list that calibration needs. For another
            system's answers see `official_metrics`, and `cross_fitted_answers` in squad.metrics where it gives odds.
        threshold, temperature, best_bonus: those to use, chosen elsewhere; None: the best on these very examples.
        scoring: how answers are compared; its name and language are kept under `scoring` and `language`.
        compared: further scorings, whose EM and F1 of the same answers are added under `scorings`, by name.
        causes: why questions have no answer, by id, as `known_causes` gives them.
    Returns the official metrics of the answers at that threshold under their official names, and

    threshold, threshold_is_tuned_here: if it is, the official names are optimistic, and
    crossfit: each half of the articles at the threshold tuned on the other half, the figures to quote. Missing when
        there is only one article, or no question without an answer: then the chosen threshold answers them all.
    at_zero, always_answer, always_empty: at threshold 0, never "", always "".
    Each has 95% intervals over articles for exact and f1.
    calibration: temperature, bonus and expected calibration error, see `calibrate`.
    prior: the share of questions with an answer, `null_scale` and `coverage`, for other shares; when tuned here.
    causes: see `left_alone`; of the cross-fitted answers where there are some.
    Raises DataError when there is no example, or one has no prediction.
    """
    for name in ("answers", "null_odds", "nbest"):
        check_complete(examples, getattr(predictions, name), name)
    answers, odds, normalize = predictions.answers, predictions.null_odds, scoring.normalize
    tuned_here, mixed = threshold is None, not all(example.answers for example in examples)
    if tuned_here:
        threshold = _best_threshold(examples, predictions, normalize, mixed)
    chosen = apply_threshold(predictions, threshold)
    official = official_metrics(examples, answers, odds, normalize=normalize)
    result = {**_summary(examples, chosen, normalize), **{k: v for k, v in official.items() if k.startswith("best_")}}
    result |= {"threshold": threshold, "threshold_is_tuned_here": tuned_here}
    result |= {"scoring": scoring.name, "language": scoring.language}
    quoted = chosen
    if mixed and len({example.title for example in examples}) > 1:
        quoted = cross_fitted_answers(examples, answers, odds, normalize)
        result["crossfit"] = _summary(examples, quoted, normalize)
    result["at_zero"] = _summary(examples, apply_threshold(predictions, 0.0), normalize)
    result["always_answer"] = _summary(examples, answers, normalize)
    result["always_empty"] = _summary(examples, dict.fromkeys(answers, ""), normalize)
    result["calibration"] = calibrate(examples, predictions, threshold, temperature, best_bonus, normalize)
    scale = null_scale(examples, odds) if tuned_here else None
    if scale is not None:
        share = sum(bool(example.answers) for example in examples) / len(examples)
        rows = coverage(examples, predictions, threshold, scale, normalize=normalize)
        result["prior"] = {"answerable": share, "null_scale": scale, "coverage": rows}
    if causes:
        result["causes"] = left_alone(quoted, causes)
    if compared:
        same = chosen if mixed else answers
        result["scorings"] = {other.name: _compare(examples, same, other) for other in compared}
    return result


def _best_threshold(examples: Sequence[Example], predictions: Predictions, normalize: Normalize, mixed: bool) -> float:
    """The best threshold on these examples; when all have an answer, the lowest from 0 up that answers them all."""
    odds = predictions.null_odds
    if not mixed:
        return max([0.0, *(odds[id] for id, text in predictions.answers.items() if text)])
    _, f1 = question_scores(examples, predictions.answers, normalize)
    return tune_threshold(examples, f1, odds)[0]


def headline(metrics: dict) -> dict:
    """The figures to quote of what `evaluate` returns: cross-fitted, or always answering where that is the task."""
    return metrics[name] if (name := headline_name(metrics)) else metrics


def headline_name(metrics: dict) -> str:
    """Under which name `evaluate` returns the figures to quote; "" for those at its threshold."""
    if "NoAns_exact" not in metrics:
        return "always_answer"
    return "crossfit" if "crossfit" in metrics else ""


def _summary(examples: Sequence[Example], answers: dict[str, str], normalize: Normalize) -> dict:
    exact, f1 = question_scores(examples, answers, normalize)
    intervals = {"exact_interval": bootstrap_interval(examples, exact), "f1_interval": bootstrap_interval(examples, f1)}
    return mean_scores(examples, exact, f1) | intervals


def _compare(examples: Sequence[Example], answers: dict[str, str], scoring: Scoring) -> dict:
    metrics = mean_scores(examples, *question_scores(examples, answers, scoring.normalize))
    return {"exact": metrics["exact"], "f1": metrics["f1"], "rules": scoring.rules}


def labels(tuned_here: bool) -> dict[str, str]:
    """LINES, for a threshold that was tuned on these questions or not."""
    return LINES if tuned_here else LINES | {"": "the run's own threshold"}


def results_table(metrics: dict) -> str:
    """What `evaluate` returns, as a table for people.

    Args: metrics: may have `left_out` too, the number of unanswerable questions that were left out.
    """
    tuned_here, mixed = metrics["threshold_is_tuned_here"], "NoAns_exact" in metrics
    rows = {label: metrics.get(name) if name else metrics for name, label in labels(tuned_here).items()}
    if not mixed:  # then the tuned threshold answers all, and always "" is never right
        hidden = (LINES[""], LINES["always_empty"])
        rows = {label: rows[label] for label in reversed(rows) if label not in hidden}
    lines = [f"{'':28}{'EM':>7}{'95% interval':>15}{'F1':>8}{'95% interval':>15}{'HasAns F1':>11}{'NoAns F1':>10}"]
    lines += [_table_line(label, row) for label, row in rows.items() if row is not None]
    optimistic = ", optimistic: it was chosen on these questions" if tuned_here else ""
    notes = [f"{metrics['total']} questions; threshold {metrics['threshold']:.3f}{optimistic}"]
    if not mixed:
        left_out = f" ({metrics['left_out']:,} without one left out)" if metrics.get("left_out") else ""
        notes = [f"{metrics['total']} questions, all with an answer{left_out}: read the line for always answering"]
        notes += ["the null threshold means nothing here: no question shows when to say that there is no answer"]
    trust = metrics["calibration"]
    error = trust.get("ece_crossfit", trust["ece_after"])
    notes.append(
        f"expected calibration error {trust['ece_before']:.1%}, {error:.1%} at temperature {trust['temperature']:.2f} "
        f"and bonus {trust['best_bonus']:.2f}" + " (cross-fitted)" * ("ece_crossfit" in trust)
    )
    return "\n".join([*lines, *notes, *_cause_lines(metrics), *_scoring_lines(metrics)])


def _table_line(label: str, row: dict) -> str:
    em, f1 = ("{:.1f} - {:.1f}".format(*row[f"{name}_interval"]) for name in ("exact", "f1"))
    has, no = (f"{row[k]:.2f}" if k in row else "-" for k in ("HasAns_f1", "NoAns_f1"))
    return f"{label:28}{row['exact']:7.2f}{em:>15}{row['f1']:8.2f}{f1:>15}{has:>11}{no:>10}"


def _cause_lines(metrics: dict) -> list[str]:
    causes = metrics.get("causes", {})
    lines = ["", f"{'why there is no answer':28}{'questions':>11}{'left alone':>13}"] if causes else []
    return lines + [f"{cause:28}{row['total']:11,}{row['NoAns_exact']:12.1f}%" for cause, row in causes.items()]


def _scoring_lines(metrics: dict) -> list[str]:
    """How answers were compared, if not the official way, and what other scorings make of the same answers."""
    scorings = metrics.get("scorings", {})
    lines = [f"scored by the {metrics['scoring']} rules"] if metrics.get("scoring", "official") != "official" else []
    if scorings:
        lines += ["", f"{'the same answers, scored':28}{'EM':>7}{'F1':>23}"]
        lines += [f"{name:28}{row['exact']:7.2f}{row['f1']:23.2f}" for name, row in scorings.items()]
        lines.append("why they differ: " + "; ".join(f"{name} {row['rules']}" for name, row in scorings.items()))
    return lines


def write_results(folder: str | Path, predictions: Predictions, metrics: dict) -> None:
    """Write metrics.json, predictions.json (at the metrics' threshold), nbest_predictions.json and null_odds.json."""
    content = {
        METRICS: metrics,
        PREDICTIONS: apply_threshold(predictions, metrics["threshold"]),
        NBEST: predictions.nbest,
        NULL_ODDS: predictions.null_odds,
    }
    for name, values in content.items():
        write_json(Path(folder) / name, values)
