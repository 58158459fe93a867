"""The same questions before and after training: counted as Simple Transformers counts, with EM and F1 beside.

It counts an answer as correct when it equals the first gold answer, as similar when one of the two contains the other,
else as incorrect. Every text contains "", so a model that never answers is "similar" on every question that has an
answer, and any answer is "similar" when there is none.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

import minibert
import squad
from experiments import common
from minibert import qa
from minihub import atomic_write, write_json
from minirun import Parser, progress_bar


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="python -m experiments before-after", description=__doc__)
    add = parser.add_argument
    dev, shown_questions = common.DATA / "dev.json.gz", common.DATA / "examples.jsonl"
    add("--before", default="minilm", metavar="NAME", help="a model, with a QA head or without (minilm)")
    add("--after", default=str(qa.load.SHIPPED), metavar="NAME", help="a trained model (the shipped adapter)")
    add("--dev", metavar="FILE", default=str(dev), help="SQuAD file (data/dev.json.gz)")
    add(
        "--examples",
        metavar="FILE",
        default=str(shown_questions),
        help="questions to show with three answers each (data/examples.jsonl)",
    )
    add("--output", metavar="DIR", type=Path, default=Path("runs/experiments/before-after"), help="for everything")
    options = parser.parse_args(argv)
    examples, asked = squad.read_examples(options.dev), read_questions(Path(options.examples))
    if not examples:
        raise ValueError(f"{options.dev}: has no question")
    rows, shown = [], {}
    for name, model in (("before", options.before), ("after", options.after)):
        reader = load_reader(model)
        rows.append({"when": name, "model": Path(model).name, **judged(reader, examples)})
        shown[name] = [reader(item["question"], item["context"], top_k=3) for item in asked]
    notes = (
        f"{len(examples):,} questions of {Path(options.dev).name}, each model at its own threshold, 0 if it has none. "
        "Correct, similar and incorrect are counted as by Simple Transformers: equal to the first gold answer; one "
        'contains the other, as everything contains ""; neither. So silence scores well even where it is wrong. The '
        "figures to read are EM and F1 against every gold answer, for questions with (HasAns) and without (NoAns) one; "
        f"{common.silence(rows[0]['metrics'])}."
    )
    common.report(options.output, "Before and after", rows, COLUMNS, notes)
    text = answers_table(asked, shown)
    with atomic_write(options.output) as part:
        (part / "examples.md").write_text(text, encoding="utf-8")
        write_json(part / "examples.json", shown)
    print(f"\n{text}\n{options.output}/examples.md, examples.json")
    common.draw(options.output / "before-after.png", lambda axes: plot(axes, rows), size=(6, 2.5))
    return 0


def read_questions(path: Path) -> list[dict]:
    """The questions of a .jsonl file. Raises ValueError, naming the line, when one is malformed."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found += [squad.parse_question(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from error
    return found


def load_reader(name: str) -> squad.Reader:
    """qa.load_reader; a model without a QA head gets a random one, as at the start of fine-tuning."""
    try:
        return qa.load_reader(name)
    except minibert.NoHeadError:
        torch.manual_seed(0)
    model, tokenizer = minibert.load_pretrained(name, missing_head="allow"), minibert.load_tokenizer(name)
    return squad.Reader(model, tokenizer, **qa.window_sizes(model.config))


def judged(reader: squad.Reader, examples: Sequence[squad.Example]) -> dict:
    """Counts and official metrics of the reader's answers to these questions."""
    questions, contexts = [e.question for e in examples], [e.context for e in examples]
    found = reader(questions, contexts, progress=progress_bar("answer"))
    answers = {e.id: item["answer"] for e, item in zip(examples, found, strict=True)}
    counts = Counter(kind_of(e, answers[e.id]) for e in examples)
    silent = squad.official_metrics(examples, dict.fromkeys(answers, ""))
    return {"counts": dict(counts), "metrics": squad.official_metrics(examples, answers) | {"always_empty": silent}}


def kind_of(example: squad.Example, given: str) -> str:
    """`correct`, `similar` or `incorrect`, as Simple Transformers counts."""
    gold = example.answers[0].text if example.answers else ""
    if given.strip() == gold.strip():
        return "correct"
    return "similar" if given.strip() in gold.strip() or gold.strip() in given.strip() else "incorrect"


def answers_table(asked: Sequence[dict], shown: dict[str, list[list[dict]]]) -> str:
    """Each question's three best answers with their confidence, before and after, as Markdown."""
    lines = ["| question | before | after |", "| --- | --- | --- |"]
    for number, item in enumerate(asked):
        cells = [
            "<br>".join(f"{on_one_line(a['answer'])} {a['score']:.0%}" for a in answers[number])
            for answers in shown.values()
        ]
        lines.append(f"| {on_one_line(item['question'], 300)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def on_one_line(text: str, most: int = 60) -> str:
    return " ".join(text[:most].replace("|", " ").split()) or "*none*"


COLUMNS = {
    "": lambda r: r["when"],
    "model": lambda r: r["model"],
    **{kind: lambda r, kind=kind: str(r["counts"].get(kind, 0)) for kind in ("correct", "similar", "incorrect")},
    **{
        name: lambda r, name=name: f"{r['metrics'].get(name, float('nan')):.2f}"
        for name in ("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact")
    },
}


def plot(axes, rows: list[dict]) -> None:
    left = [0] * len(rows)
    for kind, color in (("correct", "tab:green"), ("similar", "tab:olive"), ("incorrect", "tab:red")):
        counts = [row["counts"].get(kind, 0) for row in rows]
        bars = axes.barh([row["when"] for row in rows], counts, left=left, color=color, label=kind)
        axes.bar_label(bars, [str(n) if n else "" for n in counts], label_type="center")
        left = [a + b for a, b in zip(left, counts, strict=True)]
    axes.set(xlabel="questions, counted as by Simple Transformers")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.invert_yaxis()
