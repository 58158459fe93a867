"""The tables of an adapter's card, as Markdown, from the files of a run: python docs/card_tables.py RUN."""

import json
import sys
from pathlib import Path

import squad
from squad.words import in_words

LINES = {"crossfit": "threshold of one half of the articles on the other half", "at_zero": "threshold 0",
         "always_answer": "always answering", "always_empty": 'always ""'}  # fmt: skip


def scores(metrics: dict) -> list[str]:
    lines = ["| | EM | F1 | HasAns F1 | NoAns F1 |", "| --- | --- | --- | --- | --- |"]
    for name, label in LINES.items():
        row = metrics[name]
        em, f1 = (
            f"{row[k]:.2f} ({row[f'{k}_interval'][0]:.1f} - {row[f'{k}_interval'][1]:.1f})" for k in ("exact", "f1")
        )
        lines.append(f"| {label} | {em} | {f1} | {row['HasAns_f1']:.2f} | {row['NoAns_f1']:.2f} |")
    return lines


def causes(metrics: dict) -> list[str]:
    lines = ["| why there is no answer | questions | left alone |", "| --- | --- | --- |"]
    return lines + [
        f"| {cause} | {row['total']:,} | {row['NoAns_exact']:.1f}% |" for cause, row in metrics["causes"].items()
    ]


def coverage(metrics: dict) -> list[str]:
    lines = [
        "| `answerable` | threshold | dev: answered | right of those | weighted: answered | right of those |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in metrics["prior"]["coverage"]:
        cells = [f"{row[name]:.1%}" for name in ("answered", "right", "answered_there", "right_there")]
        lines.append(f"| {row['answerable']:g} | {row['threshold']:.2f} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    run = Path(sys.argv[1])
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    print("\n\n".join("\n".join(part(metrics)) for part in (scores, causes, coverage)))
    trust = metrics["calibration"]
    print(f"\nthreshold {metrics['threshold']:.3f}, prior {metrics['prior']['null_scale']:.3f} per unit of log odds")
    print(f"calibration: {trust}")
    print(in_words(metrics))
    given = squad.headline(metrics)
    print(f"EM {given['exact']:.2f}, F1 {given['f1']:.2f} of {metrics['total']:,} questions")


if __name__ == "__main__":
    main()
