"""A run's files -> the page: the head, the sections, and the list of errors."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from minihub import CheckpointError, load_tokenizer
from minirun import inline_policy
from squad.evaluation import LINES, labels
from squad.examples import DataError, Example
from squad.metrics import question_scores
from squad.report.files import RunFiles
from squad.report.numbers import INVENTED, SILENT, WRONG, confidences, error_kind, segments, worst_errors
from squad.report.sections import (
    calibration,
    coverage_table,
    groups,
    precision_recall_chart,
    signed,
    table,
    threshold_chart,
    training,
)
from squad.windowing import MAX_LENGTH, MAX_QUESTION, OVERLAP, make_windows

MAIN_OPTIONS = (
    "model", "train", "dev", "epochs", "lora_rank", "lora_alpha", "lora_targets", "learning_rate", "batch_size",
    "gradient_accumulation_steps", "max_length", "window_overlap", "precision", "seed",
)  # fmt: skip
WINDOW_SIZES = {"max_length": MAX_LENGTH, "window_overlap": OVERLAP, "max_question_tokens": MAX_QUESTION}
MOST_ERRORS = 200
KINDS = (WRONG, INVENTED, SILENT)
SILENCE = "the text does not say"


def make_page(run: RunFiles, windows: np.ndarray | str) -> str:
    """The report as HTML; equal files give an equal page.

    Args: windows (E,): the number of windows of each question; or a sentence that says why it is not known.
    """
    template = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    exact, f1 = question_scores(run.examples, run.given, run.normalize)
    reliability, bins = calibration(run, exact)
    parts = {
        "name": escape(run.name),
        "policy": inline_policy(template),
        "cards": _cards(run),
        "scores": _scores_table(run.figures),
        "options": _options(run.config),
        "training": training(run.log),
        "answering": threshold_chart(run) + precision_recall_chart(run) + coverage_table(run.figures["coverage"]),
        "calibration": reliability,
        "bins": bins,
        "groups": groups(run, windows, exact, f1),
        "errors": _errors(run, exact, f1),
    }
    # In one pass, so that braces within a question or a text are not replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def windows_per_question(examples: Sequence[Example], config: dict, tokenizer: str | None) -> np.ndarray | str:
    """The number of windows that each question was cut into, (E,); or a sentence that says why it is not known.

    Args: config: the run's options; tokenizer: path of the run's tokenizer.json, None to find it by the run's model.
    Raises CheckpointError when the tokenizer at a given path cannot be read, DataError when the window sizes are not
    whole numbers, ValueError when no windows can be cut with them.
    """
    model = config.get("model")
    is_here = model == "minilm" or (isinstance(model, str) and Path(model).is_dir())  # the report downloads nothing
    if tokenizer is None and not is_here:
        return "Scores by number of windows need the tokenizer of the run's model: give --tokenizer PATH."
    try:
        found = load_tokenizer(tokenizer or model)
    except CheckpointError as error:
        if tokenizer is not None:
            raise
        return f"Scores by number of windows are left out: {error}."
    sizes = [config.get(name, usual) for name, usual in WINDOW_SIZES.items()]
    if not all(isinstance(size, int) and size < 10**9 for size in sizes):
        raise DataError(f"config.json: the window sizes are {str(sizes)[:60]}, expected whole numbers below 1e9")
    return np.bincount(make_windows(examples, found, *sizes).example_index, minlength=len(examples))


# ------------------------------------------------------------------ the head


def _cards(run: RunFiles) -> str:
    figures, rows = run.figures, run.figures["rows"]
    shown = figures["headline"]
    label = labels(figures["tuned_here"])[shown]
    answerable = sum(bool(example.answers) for example in run.examples)
    chosen = "tuned on these questions" if figures["tuned_here"] else "the run's own"
    cards = [
        (f"EM, {label}", f"{rows[shown]['exact']:.2f}", _interval(rows[shown]["exact_interval"])),
        (f"F1, {label}", f"{rows[shown]['f1']:.2f}", _interval(rows[shown]["f1_interval"])),
        ('always "", the baseline', f"{rows['always_empty']['f1']:.2f}", "EM and F1 without any model"),
        ("threshold", signed(figures["threshold"]), chosen),
        ("questions", f"{len(run.examples):,}", f"{answerable:,} of them answerable"),
    ]
    items = (f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in cards)
    return f'<dl class="cards">{"".join(items)}</dl>'


def _scores_table(figures: dict) -> str:
    names, lines = labels(figures["tuned_here"]), []
    for name in (name for name in LINES if name in figures["rows"]):
        row = figures["rows"][name]
        cells = [f"{row[k]:.2f}<small>{_interval(row[k + '_interval'])}</small>" for k in ("exact", "f1")]
        cells += [f"{row[k]:.2f}" if k in row else "\N{EN DASH}" for k in ("HasAns_f1", "NoAns_f1")]
        lines.append([escape(names[name]), *cells])
    return table(("answers", "EM", "F1", "HasAns F1", "NoAns F1"), lines)


def _options(config: dict) -> str:
    rest = [name for name in config if name not in MAIN_OPTIONS]
    more = f"<details><summary>All other options</summary>{_pairs(config, rest)}</details>" if rest else ""
    return _pairs(config, [name for name in MAIN_OPTIONS if name in config]) + more


def _pairs(config: dict, names: Sequence[str]) -> str:
    texts = {name: config[name] if isinstance(config[name], str) else json.dumps(config[name]) for name in names}
    items = (f"<div><dt>{escape(name)}</dt><dd>{escape(_cut(text, 200))}</dd></div>" for name, text in texts.items())
    return f'<dl class="options">{"".join(items)}</dl>'


# ------------------------------------------------------------------ the errors


def _errors(run: RunFiles, exact: np.ndarray, f1: np.ndarray) -> str:
    """The filter and the list. The page is complete without its script, which only hides entries."""
    kinds = [
        "" if right else error_kind(example, run.given[example.id])
        for example, right in zip(run.examples, exact, strict=True)
    ]
    total = sum(map(bool, kinds))
    if not total:
        return "<p>No question was answered wrongly.</p>"
    fitted = [run.figures["calibration"][name] for name in ("temperature", "best_bonus")]
    confidence = confidences(run.examples, run.predictions, run.figures["threshold"], *fitted)
    listed = worst_errors(kinds, confidence, MOST_ERRORS)
    shown, there = Counter(kinds[i] for i in listed), Counter(kinds)
    choices = [("", f"all kinds ({len(listed)} of {total:,})")]
    choices += [(kind, f"{kind} ({shown[kind]} of {there[kind]:,})") for kind in KINDS if there[kind]]
    options = "".join(f'<option value="{escape(value)}">{escape(label)}</option>' for value, label in choices)
    items = (_error(run, run.examples[i], float(confidence[i]), float(f1[i])) for i in listed)
    return (
        f"<p>{total:,} of {len(run.examples):,} questions have no exact match. Here are {len(listed)} of them, those "
        "of each kind of which the model was surest, at the chosen threshold, temperature and bonus.</p>"
        f'<div class="filter" hidden><label>Kind <select id="kind">{options}</select></label>'
        '<label>Search <input id="search" type="search" autocomplete="off" dir="auto"></label></div>'
        f'<p id="found" role="status"></p><div id="errors">{"".join(items)}</div>'
        '<button id="more" type="button" hidden>Show more</button>'
    )


def _error(run: RunFiles, example: Example, confidence: float, f1: float) -> str:
    said, kind = run.given[example.id], error_kind(example, run.given[example.id])
    span = next((entry for entry in run.predictions.nbest[example.id] if entry["start"] is not None), None)
    marked = (span["start"], span["end"]) if said and span else None
    gold = list(dict.fromkeys(answer.text for answer in example.answers))
    rows = [("said", _quoted([said] if said else [])), ("gold", _quoted(gold))]
    if not said and span:
        rows.append(("best span", _quoted([span["text"]])))
    rows.append(("F1", f"{100 * f1:.0f}"))
    rows.append(("null odds", f"{signed(run.predictions.null_odds[example.id])}"))
    rows.append(("article", f'<bdi dir="auto">{escape(_cut(example.title, 200))}</bdi>'))
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    pieces = segments(example.context, [(a.start, a.end) for a in example.answers], marked)
    context = "".join(f'<mark class="{mark}">{escape(t)}</mark>' if mark else escape(t) for t, mark in pieces)
    return (
        f'<details class="error" data-kind="{escape(kind)}"><summary><span class="sure">{confidence:.1%}</span>'
        f'<span class="kind">{escape(kind)}</span><span class="question" dir="auto">'
        f"{escape(_cut(example.question, 1000))}</span></summary>"
        f'<dl class="facts">{facts}</dl><p class="context" dir="auto">{context}</p></details>'
    )


def _quoted(answers: Sequence[str]) -> str:
    """At most five answers as HTML, or that there is none."""
    if not answers:
        return f"<i>{SILENCE}</i>"
    return " \N{MIDDLE DOT} ".join(f'<bdi class="answer" dir="auto">{escape(_cut(a, 300))}</bdi>' for a in answers[:5])


# ------------------------------------------------------------------ small things


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.1f} \N{EN DASH} {ends[1]:.1f}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} \N{HORIZONTAL ELLIPSIS}"
