"""Figures and answers in plain words, for a terminal."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from minihub import read_object
from squad.evaluation import LARGEST_FILE, METRICS, NBEST, PREDICTIONS, headline, results_table
from squad.examples import Example
from squad.metrics import question_scores
from squad.scoring import Normalize, find_scoring, normalize_answer


def show_results(folder: Path, examples: Sequence[Example]) -> str:
    """What a person sees at the end: the table, the same in words, and some answers, from `write_results`' files."""
    metrics, answers, nbest = (
        read_object(folder / name, largest=LARGEST_FILE) for name in (METRICS, PREDICTIONS, NBEST)
    )
    normalize = find_scoring(metrics["scoring"], metrics["language"]).normalize
    shown = shown_answers(examples, answers, nbest, normalize)
    return f"{results_table(metrics)}\n\n{in_words(metrics)}\n\nat threshold {metrics['threshold']:.3f}:\n{shown}"


def in_words(metrics: Mapping) -> str:
    """What `evaluate` returns, as one sentence that needs no knowledge of the metrics."""
    row, always = headline(metrics), metrics["always_answer"]
    if "NoAns_exact" not in row:
        return f"of 10 questions that have an answer it gives {row['HasAns_exact'] / 10:.1f} exactly right"
    text = ""
    if "HasAns_exact" in row:
        found, most = (figures["HasAns_exact"] / 10 for figures in (row, always))
        text = f"of 10 questions that have an answer it gives {found:.1f} exactly right"
        text += f" ({most:.1f} if it must always answer); "
    text += f"of 10 that have none it says so {row['NoAns_exact'] / 10:.1f} times"
    which = " at thresholds chosen on other articles" if "crossfit" in metrics else ""
    f1 = f"F1 is {row['f1']:.1f}{which}; never answering would score {metrics['always_empty']['f1']:.1f}"
    return f"{text}. {f1}"


def describe_written(metrics: Mapping) -> str:
    """The figures of answers that were written, beside always ""; only the loss when none were."""
    text = f"loss per token {metrics['loss']:.3f}"
    if "always_empty" in metrics:
        parts = [f", {k} F1 {metrics[f'{k}_f1']:.2f}" for k in ("HasAns", "NoAns") if f"{k}_f1" in metrics]
        text += f"; EM {metrics['exact']:.2f}, F1 {metrics['f1']:.2f}{''.join(parts)}"
        text += f'; always "" (baseline) F1 {metrics["always_empty"]["f1"]:.2f}'
    return text


def shown_answers(
    examples: Sequence[Example],
    answers: Mapping[str, str],
    nbest: Mapping[str, list[dict]],
    normalize: Normalize = normalize_answer,
) -> str:
    """Up to three questions with the model's answers marked in their sentences: the first of each kind there is.

    The kinds are an answer that is right, silence that is right, and anything that is wrong.

    Args: answers: at the threshold, "" for no answer; nbest: as in Predictions; normalize: as for `question_scores`.
    """
    exact, _ = question_scores(examples, answers, normalize)
    first = {}
    for example, right in zip(examples, exact, strict=True):
        kind = "wrong" if not right else "right answer" if answers[example.id] else "right silence"
        first.setdefault(kind, example)
    lines = []
    for kind in sorted(first):
        example = first[kind]
        lines.append(f"{kind[:5]}  {printable(example.question)}")
        if answers[example.id]:
            span = next(entry for entry in nbest[example.id] if entry["start"] is not None)
            lines.append(f"       {marked_sentence(example.context, span['start'], span['end'])}")
        else:
            lines.append("       (the text does not say)")
        if kind == "wrong":
            expected = example.answers[0].text if example.answers else "no answer"
            lines.append(f"       expected: {printable(expected)}")
    return "\n".join(lines)


def marked_sentence(context: str, start: int, end: int, color: bool = False, reach: int = 300) -> str:
    """The sentence around context[start:end] on one line, at most `reach` characters each side, the span marked."""
    # \u06d4 ends a sentence in Urdu, \u0964 in Hindi; Chinese and Japanese have no space behind theirs
    stop = r"(?<=[.!?؟\u06d4\u0964])\s+|(?<=[。！？])|\n"  # noqa: RUF001
    left = re.split(stop, context[max(0, start - reach) : start])[-1]
    right = re.split(stop, context[end : end + reach])[0]
    on, off = ("\x1b[1;7m", "\x1b[0m") if color else ("[[", "]]")
    return f"{printable(left).lstrip()}{on}{printable(context[start:end])}{off}{printable(right).rstrip()}"


def printable(text: str) -> str:
    """Replace control characters by spaces: in a terminal they could move the cursor."""
    return "".join(c if c.isprintable() else " " for c in text)
