"""The charts of the page: a run's files -> figures with their captions, as HTML."""

from collections.abc import Sequence
from html import escape

import numpy as np

from squad.causes import CAUSES, known_causes
from squad.metrics import question_scores
from squad.report import numbers
from squad.report.charts import Frame, Series, bar_chart, line_chart, reliability_chart, spread
from squad.report.files import RunFiles

GRID = 400  # points of a drawn curve, more than a screen can show


def training(log: list[dict] | None) -> str:
    """Loss, learning rate and the evaluations, from the lines of log.jsonl; None when there is no such file."""
    steps = [line for line in log or [] if "loss" in line]
    evaluations = [line for line in log or [] if "exact" in line]
    parts = []
    if steps:
        step, loss, rate = (numbers.thin([line[name] for line in steps], GRID) for name in ("step", "loss", "lr"))
        said = f"Mean training loss of each log line, from {loss[0]:.3f} to {loss[-1]:.3f}."
        if "spikes" in steps[-1]:
            said += f" Spikes, losses above twice the mean of the 50 before: {steps[-1]['spikes']:,.0f}."
        parts.append(_curve("loss", "Training loss", said, [Series("loss", step, loss)], "loss", 0.0))
        said = f"It reaches {max(rate):.2g} and ends at {rate[-1]:.2g}."
        parts.append(_curve("rate", "Learning rate", said, [Series("rate", step, rate)], "", 0.0))
    if evaluations:
        step = [line["step"] for line in evaluations]
        series = [
            Series(name, step, [line[key] for line in evaluations]) for name, key in (("EM", "exact"), ("F1", "f1"))
        ]
        said = "Scores on the dev questions at each evaluation, cross-fitted where they can be."
        parts.append(_curve("evaluations", "Evaluations", said, series, "%"))
    if not parts:
        return f"<p>{'No log.jsonl here' if log is None else 'log.jsonl has no lines yet'}: no curves.</p>"
    return "".join(parts)


def _curve(name: str, title: str, said: str, series: list[Series], y_label: str, *y_from: float) -> str:
    low, high = spread([y for line in series for y in line.y], *y_from)
    frame = Frame(spread(series[0].x), (low, high + (high - low) / 20))
    return figure(title, line_chart(name, title, said, series, ("step", y_label), frame), said)


def threshold_chart(run: RunFiles) -> str:
    """EM and F1 at every threshold, the chosen one and 0 marked."""
    odds, chosen = _odds(run), run.figures["threshold"]
    low, high = np.percentile(odds, [0.5, 99.5])  # a few extreme odds would squeeze all others
    near = [at for at in (0.0, chosen) if low - (high - low) <= at <= high + (high - low)]
    frame = Frame(spread([float(low), float(high)], *near), (0.0, 100.0))
    grid = np.unique([*np.linspace(*frame.x_range, GRID), *near])
    answered = question_scores(run.examples, run.predictions.answers, run.normalize)
    silent = question_scores(run.examples, dict.fromkeys(run.predictions.answers, ""), run.normalize)
    series, at = [], {}
    for name, *scores in zip(("EM", "F1"), answered, silent, strict=True):
        thresholds, totals = numbers.totals_by_threshold(odds, *scores)
        share = 100 / len(odds) * totals
        series.append(Series(name, grid.tolist(), numbers.value_at(thresholds, share, grid).tolist(), step=True))
        at[name] = [float(numbers.value_at(thresholds, share, x)) for x in (chosen, 0.0)]
    frame = Frame(frame.x_range, (0.0, min(100.0, 1.15 * max(max(line.y) for line in series) or 1.0)))
    said = (
        f"At the chosen threshold, {signed(chosen)}, EM is {at['EM'][0]:.2f} and F1 {at['F1'][0]:.2f}; "
        f"at 0 they are {at['EM'][1]:.2f} and {at['F1'][1]:.2f}."
    )
    marks = [(chosen, f"chosen, {signed(chosen)}"), (0.0, "0")]
    title, axes = "EM and F1 against the threshold", ("threshold on the null odds", "%")
    return figure(title, line_chart("threshold", title, said, series, axes, frame, marks), said)


def precision_recall_chart(run: RunFiles) -> str:
    """See `numbers.precision_recall`; only a sentence when one of the two is undefined."""
    answerable = np.array([bool(example.answers) for example in run.examples])
    given = np.array([bool(run.predictions.answers[example.id]) for example in run.examples])
    title = "Precision and recall of answering"
    if not (answerable.any() and given.any()):
        return figure(title, "", "No answerable question, or no answer at all: there is no recall or no precision.")
    right = answerable & (question_scores(run.examples, run.predictions.answers, run.normalize)[0] > 0)
    thresholds, precision, recall = numbers.precision_recall(_odds(run), given, right, int(answerable.sum()))
    some = np.unique(np.linspace(0, len(thresholds) - 1, GRID).astype(int))
    dots = []
    for at, label in ((run.figures["threshold"], "chosen"), (0.0, "0")):
        if at >= thresholds[0]:
            values = (float(numbers.value_at(thresholds, curve, at)) for curve in (recall, precision))
            dots.append((*values, label))
    mean = numbers.average_precision(precision, recall)
    said = f"At each threshold, which rises from left to right. Average precision {mean:.3f}."
    series = [Series("precision", recall[some].tolist(), precision[some].tolist())]
    frame = Frame((0.0, 1.0), (0.0, 1.0))
    chart = line_chart("precision", title, said, series, ("recall", "precision"), frame, dots=dots)
    return figure(title, chart, said)


def calibration(run: RunFiles, exact: np.ndarray) -> tuple[str, str]:
    """Reliability before and after calibration, as charts and as tables; exact (E,): of the answers given."""
    trust, parts, tables = run.figures["calibration"], [], []
    temperature, bonus = trust["temperature"], trust["best_bonus"]
    for name, title, fitted, error in (
        ("before", "Before, at temperature 1", (1.0, 0.0), "ece_before"),
        ("after", f"At temperature {temperature:.2f} and bonus {bonus:.2f}", (temperature, bonus), "ece_after"),
    ):
        confidence = numbers.confidences(run.examples, run.predictions, run.figures["threshold"], *fitted)
        bins = numbers.reliability(confidence, exact)
        said = f"Expected calibration error {trust[error]:.1%}."
        if name == "after" and "ece_crossfit" in trust:
            said += (
                f" {trust['ece_crossfit']:.1%} with temperature and bonus of other articles (the threshold is of all)."
            )
        parts.append(figure(title, reliability_chart(f"calibration-{name}", title, said, bins), said))
        tables.append(_bins_table(title, bins))
    tables = f'<details class="wide"><summary>The bins as tables</summary>{"".join(tables)}</details>'
    return "".join(parts), tables


def coverage_table(rows: Sequence[dict[str, float]]) -> str:
    """How many questions are answered, and how many of these answers are right, where other shares have an answer."""
    if not rows:
        return ""
    names = ("questions with an answer", "threshold", "dev: answered", "right of those", "weighted: answered",
             "right of those")  # fmt: skip
    lines = []
    for row in rows:
        shares = (f"{row[name]:.1%}" for name in ("answered", "right", "answered_there", "right_there"))
        lines.append([f"{row['answerable']:.0%}", signed(row["threshold"]), *shares])
    said = (
        "The threshold for texts that have the answer more often or less (--answerable); on these questions, and on "
        "the same weighted so that this share of them has one."
    )
    return figure("How often to answer", table(names, lines), said)


def groups(run: RunFiles, windows: np.ndarray | str, exact: np.ndarray, f1: np.ndarray) -> str:
    """Scores at the threshold by question word, answer length and number of windows.

    Args: windows (E,), or a sentence that says why it is not known; exact, f1 (E,): of the answers given.
    """
    kinds = [
        ("word", "By question word", [numbers.question_word(e.question) for e in run.examples], numbers.QUESTION_WORDS,
         "The first question word, \"other\" where there is none of the English ones."),
        ("length", "By length of the answer", [numbers.answer_length(e) for e in run.examples], numbers.LENGTHS,
         "Words of the first gold answer."),
    ]  # fmt: skip
    if not isinstance(windows, str):
        names = [numbers.window_group(int(count)) for count in windows]
        kinds.append(
            ("windows", "By number of windows", names, numbers.WINDOWS, "Into how many windows a text was cut.")
        )
    figures = []
    for name, title, of_each, order, said in kinds:
        said = f"{said} Under each name the number of questions."
        rows = numbers.scores_by_group(of_each, order, exact, f1)
        figures.append(figure(title, bar_chart(f"by-{name}", title, f"{said} {_told(rows)}", rows), said))
    if causes := known_causes(run.examples):
        of_each = [i for i, example in enumerate(run.examples) if example.id in causes]
        names = [causes[run.examples[i].id] for i in of_each]
        rows = numbers.scores_by_group(names, list(CAUSES.values()), exact[of_each], f1[of_each])
        said = (
            "Of the questions without an answer, as people judged: the share left alone at this threshold; the table "
            "that train.py prints has it at thresholds chosen on other articles. Under each name their number."
        )
        title = "By why there is no answer"
        figures.append(figure(title, bar_chart("by-cause", title, f"{said} {_told(rows)}", rows), said))
    left_out = f'<p class="wide">{escape(windows)}</p>' if isinstance(windows, str) else ""
    return "".join(figures) + left_out


def signed(value: float) -> str:
    """A threshold: two decimals and a real minus."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def figure(title: str, chart: str, said: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{chart}<figcaption>{escape(said)}</figcaption></figure>"


def table(names: Sequence[str], rows: Sequence[Sequence[str]], named_rows: bool = True, caption: str = "") -> str:
    """names: of the columns. rows: cells as HTML. named_rows: the first cell of each row is the row's name."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    first = '<th scope="row">{}</th>' if named_rows else "<td>{}</td>"
    body = "".join(f"<tr>{first.format(a)}{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>" for a, *rest in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _told(rows: Sequence[dict]) -> str:
    """The groups in words, for screen readers."""
    return " ".join(f"{r['name']}: EM {r['exact']:.1f}, F1 {r['f1']:.1f}, {r['count']:,} questions." for r in rows)


def _odds(run: RunFiles) -> np.ndarray:
    return np.array([run.predictions.null_odds[example.id] for example in run.examples])


def _bins_table(title: str, bins: dict[str, np.ndarray]) -> str:
    rows = zip(*(bins[name].tolist() for name in ("confidence", "right", "count")), strict=True)
    cells = [(f"{c:.1%}", f"{r:.1%}", f"{n:,}") for c, r, n in rows if n]
    return table(("mean confidence", "share right", "answers"), cells, named_rows=False, caption=title)
