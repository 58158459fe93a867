"""The same questions before and after: correct, similar, incorrect as some count them, and the honest figures beside.

The count is that of Simple Transformers: an answer is correct when it is the first gold answer to the letter, similar
when one of the two lies in the other, incorrect otherwise. "" lies in every text, so a model that never answers is
"similar" on every question that has an answer, and any answer is "similar" where there is none.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import answer
import minibert
import squad
from experiments import common


def main(argv: Sequence[str]) -> int:
    parser = minibert.Parser(prog="python -m experiments before-after", description=__doc__)
    add = parser.add_argument
    dev, shown_questions = common.DATA / "dev.json.gz", common.DATA / "examples.jsonl"
    add("--before", default="minilm", metavar="NAME", help="what answer.py takes, or without a QA head (minilm)")
    add("--after", default=str(answer.SHIPPED), metavar="NAME", help="what answer.py takes (the adapter in data/)")
    add("--dev", metavar="FILE", default=str(dev), help="SQuAD file (data/dev.json.gz)")
    add("--examples", metavar="FILE", default=str(shown_questions), help="shown with three answers each (data/)")
    add("--output", metavar="DIR", type=Path, default=Path("runs/experiments/before-after"), help="for everything")
    add("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    examples, asked = squad.read_examples(options.dev), read_questions(Path(options.examples))
    if not examples:
        raise ValueError(f"{options.dev}: has no question, expected some to judge by")
    rows, shown = [], {}
    for name, model in (("before", options.before), ("after", options.after)):
        reader = load_reader(model)
        rows.append({"when": name, "model": Path(model).name, **judged(reader, examples)})
        shown[name] = [reader(item["question"], item["context"], top_k=3) for item in asked]
    notes = (
        f"{len(examples):,} questions of {Path(options.dev).name}, each model at its own threshold, 0 where it has "
        "none. Correct, similar and incorrect are counted as Simple Transformers does: to the letter against the first "
        'gold answer; similar when one lies in the other, which "" does in everything. So silence scores well where '
        "it is wrong; EM and F1, against every gold answer, apart for questions with (HasAns) and without (NoAns) one, "
        "are the figures to read."
    )
    common.report(options.output, "Before and after", rows, COLUMNS, notes)
    text = answers_table(asked, shown)
    with minibert.whole_files(options.output) as part:
        (part / "examples.md").write_text(text, encoding="utf-8")
        minibert.write_json(part / "examples.json", shown)
    print(f"\n{text}\n{options.output}/examples.md, examples.json")
    common.draw(options.output / "before-after.png", lambda axes: plot(axes, rows), size=(6, 2.5))
    return 0


def read_questions(path: Path) -> list[dict]:
    """The questions of a .jsonl file. Raises ValueError, naming the line, for what is none."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found += [squad.parse_question(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from error
    return found


def load_reader(name: str) -> squad.Reader:
    """As answer.py does; a model without a QA head gets a random one, seed 0, which is what fine-tuning starts from."""
    try:
        return answer.load_reader(name)
    except minibert.NoHeadError:
        torch.manual_seed(0)
    model, tokenizer = minibert.load_pretrained(name, head="later"), minibert.load_tokenizer(name)
    return squad.Reader(model, tokenizer, **answer.window_sizes(model.config))


def judged(reader: squad.Reader, examples: Sequence[squad.Example]) -> dict:
    """Every figure of the reader's answers to these questions."""
    bar = lambda batches: tqdm(batches, desc="answer", unit="batch", leave=False)  # noqa: E731
    found = reader([e.question for e in examples], [e.context for e in examples], progress=bar)
    answers = {e.id: item["answer"] for e, item in zip(examples, found, strict=True)}
    counts = Counter(kind_of(e, answers[e.id]) for e in examples)
    return {"counts": dict(counts), "metrics": squad.official_metrics(examples, answers)}


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
        lines.append(f"| {item['question']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def on_one_line(answer: str) -> str:
    return " ".join(answer[:60].replace("|", " ").split()) or "*none*"


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
    axes.set(xlabel="questions, counted as Simple Transformers does")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.invert_yaxis()
