"""A model's logits -> predictions -> the figures and files of an evaluation."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from squad.batches import collate, evaluation_batches
from squad.calibration import calibrate
from squad.examples import Example
from squad.metrics import (
    bootstrap_interval,
    cross_fitted_answers,
    mean_scores,
    official_metrics,
    question_scores,
    tune_threshold,
)
from squad.scoring import OFFICIAL, Scoring, Words
from squad.spans import Predictions, apply_threshold, best_spans, decode, span_loss
from squad.windows import Windows

# the lines of a results table: where `evaluate` puts them ("": at the top), and what they are called
LINES = {
    "crossfit": "cross-fitted threshold",
    "": "threshold tuned on this set",
    "at_zero": "threshold 0",
    "always_answer": "always answering",
    "always_empty": 'always "" (baseline)',
}


class Found(NamedTuple):
    """What `search` finds in W windows: their n best spans, scores best first; the null score; the loss."""

    scores: np.ndarray  # (W, n)
    firsts: np.ndarray  # (W, n)
    lasts: np.ndarray  # (W, n)
    null: np.ndarray  # (W,)
    loss: np.ndarray  # (W,)


def predict(
    model: Callable,
    examples: Sequence[Example],
    windows: Windows,
    device: torch.device | str = "cpu",
    max_answer_tokens: int = 30,
    n_best: int = 20,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Predictions:
    """`search` all windows and `decode` what was found."""
    rows = np.arange(len(windows))
    found = search(model, windows, rows, device, max_answer_tokens, n_best, progress)
    return decode(examples, windows, *found[:4], n_best)


@torch.inference_mode()
def search(
    model: Callable,
    windows: Windows,
    rows: np.ndarray,
    device: torch.device | str = "cpu",
    max_answer_tokens: int = 30,
    n_best: int = 20,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Found:
    """Run `model(input_ids, token_type_ids, attention_mask)` over the windows numbered `rows`, find their best spans.

    Returns `best_spans` and the loss of each, W = len(rows), in the order of rows.
    The caller puts the model in eval mode and opens any autocast. progress: wraps the loop (tqdm, say).
    """
    W, n, device = len(rows), n_best, torch.device(device)
    scores = np.full((W, n), -np.inf, np.float32)
    firsts, lasts = np.zeros((W, n), np.int64), np.zeros((W, n), np.int64)
    null, loss = np.zeros(W, np.float32), np.zeros(W, np.float32)
    for at in progress(evaluation_batches(windows.lengths[rows], tokens_at_once(device))):
        batch = collate(windows, rows[at]).to(device)
        logits = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
        found = best_spans(*logits, batch.span_mask, max_answer_tokens, n_best)
        score, first, last, null[at] = (tensor.cpu().numpy() for tensor in found)
        losses = span_loss(*logits, batch.start_positions, batch.end_positions, batch.span_mask, reduction="none")
        loss[at] = losses.cpu().numpy()
        k = score.shape[1]
        scores[at, :k], firsts[at, :k], lasts[at, :k] = score, first, last
    return Found(scores, firsts, lasts, null, loss)


def tokens_at_once(device: torch.device | str) -> int:
    """Tokens per forward pass: on a CPU what its caches hold (docs/log.md), elsewhere enough to keep it busy."""
    return 1600 if torch.device(device).type == "cpu" else 32_768


def evaluate(
    examples: Sequence[Example],
    predictions: Predictions,
    threshold: float | None = None,
    temperature: float | None = None,
    scoring: Scoring = OFFICIAL,
    compared: Sequence[Scoring] = (),
) -> dict:
    """Every figure of one evaluation.

    Args:
        threshold, temperature: those to judge by, chosen elsewhere; None: the best on these very examples.
        scoring: how answers are compared; its name and language stand under `scoring` and `language`.
        compared: scorings whose EM and F1 of the same answers are added under `scorings`, by name.
    Returns the official metrics of the answers at that threshold under their official names, and

    threshold, threshold_is_tuned_here: if it is, the official names are optimistic, and
    crossfit: each half of the articles at the other half's threshold, the figure to quote. Absent where
        there is only one article, or no question without an answer: then the threshold chosen answers them all.
    at_zero, always_answer, always_empty: at threshold 0, never "", always "".
    Each with a 95% interval over articles for exact and f1.
    calibration: temperature and expected calibration error, see `calibrate`.
    """
    answers, odds, words = predictions.answers, predictions.null_odds, scoring.words
    tuned_here, mixed = threshold is None, not all(example.answers for example in examples)
    if tuned_here:
        threshold = _chosen_threshold(examples, predictions, words, mixed)
    chosen = apply_threshold(predictions, threshold)
    best = {k: v for k, v in official_metrics(examples, answers, odds, words=words).items() if k.startswith("best_")}
    result = {**_summary(examples, chosen, words), **best}
    result |= {"threshold": threshold, "threshold_is_tuned_here": tuned_here}
    result |= {"scoring": scoring.name, "language": scoring.language}
    if mixed and len({example.title for example in examples}) > 1:
        result["crossfit"] = _summary(examples, cross_fitted_answers(examples, answers, odds, words), words)
    result["at_zero"] = _summary(examples, apply_threshold(predictions, 0.0), words)
    result["always_answer"] = _summary(examples, answers, words)
    result["always_empty"] = _summary(examples, dict.fromkeys(answers, ""), words)
    result["calibration"] = calibrate(examples, predictions, threshold, temperature, words)
    if compared:
        same = chosen if mixed else answers
        result["scorings"] = {other.name: _compared(examples, same, other) for other in compared}
    return result


def _chosen_threshold(examples: Sequence[Example], predictions: Predictions, words: Words, mixed: bool) -> float:
    """The best threshold on these examples; where all have an answer the lowest from 0 up that answers them all."""
    odds = predictions.null_odds
    if not mixed:
        return max([0.0, *(odds[id] for id, text in predictions.answers.items() if text)])
    _, f1 = question_scores(examples, predictions.answers, words)
    return tune_threshold(examples, f1, odds)[0]


def headline(metrics: dict) -> dict:
    """The figures to quote of what `evaluate` returns: cross-fitted ones, or always answering where that is right."""
    return metrics.get("crossfit", metrics) if "NoAns_exact" in metrics else metrics["always_answer"]


def _summary(examples: Sequence[Example], answers: dict[str, str], words: Words) -> dict:
    exact, f1 = question_scores(examples, answers, words)
    intervals = {"exact_interval": bootstrap_interval(examples, exact), "f1_interval": bootstrap_interval(examples, f1)}
    return mean_scores(examples, exact, f1) | intervals


def _compared(examples: Sequence[Example], answers: dict[str, str], scoring: Scoring) -> dict:
    metrics = mean_scores(examples, *question_scores(examples, answers, scoring.words))
    return {"exact": metrics["exact"], "f1": metrics["f1"], "rules": scoring.rules}


def labels(tuned_here: bool) -> dict[str, str]:
    """LINES for a threshold that was chosen on these questions, or not."""
    return LINES if tuned_here else LINES | {"": "the run's own threshold"}


def results_table(metrics: dict) -> str:
    """What `evaluate` returns, as a table for people; metrics["left_out"]: how many unanswerable questions were."""
    tuned_here, mixed = metrics["threshold_is_tuned_here"], "NoAns_exact" in metrics
    rows = {label: metrics.get(name) if name else metrics for name, label in labels(tuned_here).items()}
    if not mixed:  # the tuned threshold answers all, and always "" is never right
        hidden = (LINES[""], LINES["always_empty"])
        rows = {label: rows[label] for label in reversed(rows) if label not in hidden}
    lines = [f"{'':28}{'EM':>7}{'95% interval':>15}{'F1':>8}{'95% interval':>15}{'HasAns F1':>11}{'NoAns F1':>10}"]
    for label, row in rows.items():
        if row is not None:
            em, f1 = ("{:.1f} - {:.1f}".format(*row[f"{name}_interval"]) for name in ("exact", "f1"))
            has, no = (f"{row[k]:.2f}" if k in row else "-" for k in ("HasAns_f1", "NoAns_f1"))
            lines.append(f"{label:28}{row['exact']:7.2f}{em:>15}{row['f1']:8.2f}{f1:>15}{has:>11}{no:>10}")
    optimistic = ", optimistic: it was chosen on these questions" if tuned_here else ""
    said = [f"{metrics['total']} questions; threshold {metrics['threshold']:.3f}{optimistic}"]
    if not mixed:
        left_out = f" ({metrics['left_out']:,} without one left out)" if metrics.get("left_out") else ""
        said = [f"{metrics['total']} questions, all with an answer{left_out}: look at always answering"]
        said += ["the null threshold means nothing here: no question shows when to say that there is no answer"]
    trust = metrics["calibration"]
    error = trust.get("ece_crossfit", trust["ece_after"])
    said.append(
        f"answers' probabilities are off by {trust['ece_before']:.1%} on average, "
        f"{error:.1%} at temperature {trust['temperature']:.2f}" + " (cross-fitted)" * ("ece_crossfit" in trust)
    )
    return "\n".join([*lines, *said, *_scoring_lines(metrics)])


def _scoring_lines(metrics: dict) -> list[str]:
    """How it was scored, where that is not the official way, and what other scorings make of the same answers."""
    scorings = metrics.get("scorings", {})
    lines = [f"scored by the {metrics['scoring']} rules"] if metrics.get("scoring", "official") != "official" else []
    if scorings:
        lines += ["", f"{'the same answers, scored':28}{'EM':>7}{'F1':>23}"]
        lines += [f"{name:28}{row['exact']:7.2f}{row['f1']:23.2f}" for name, row in scorings.items()]
        lines.append("why they differ: " + "; ".join(f"{name} {row['rules']}" for name, row in scorings.items()))
    return lines


def write_results(folder: str | Path, predictions: Predictions, metrics: dict) -> None:
    """Write metrics.json, predictions.json (at the metrics' threshold), nbest_predictions.json and null_odds.json."""
    files = {
        "metrics": metrics,
        "predictions": apply_threshold(predictions, metrics["threshold"]),
        "nbest_predictions": predictions.nbest,
        "null_odds": predictions.null_odds,
    }
    for name, content in files.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (Path(folder) / f"{name}.json").write_text(text, encoding="utf-8")
