"""Ways to choose the next token, on one trained GPT-2: greedy, top-k, nucleus, temperature."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

import squad
from experiments import common
from minigpt.qa import Writer, load_writer
from minirun import Parser
from squad.dataset import load_examples

WAYS = {
    "greedy": {},
    "top-k 10": {"temperature": 1.0, "top_k": 10},
    "top-k 25": {"temperature": 1.0, "top_k": 25},
    "top-k 50": {"temperature": 1.0, "top_k": 50},
    "nucleus 0.8": {"temperature": 1.0, "top_p": 0.8},
    "nucleus 0.9": {"temperature": 1.0, "top_p": 0.9},
    "nucleus 0.95": {"temperature": 1.0, "top_p": 0.95},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 1.3": {"temperature": 1.3},
}


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="python -m experiments decoding", description=__doc__)
    add = parser.add_argument
    add("--model", metavar="RUN", required=True, help="the folder of a run of train_gpt.py")
    add("--dev", metavar="FILE", default=str(common.DATA / "dev.json.gz"), help="(data/dev.json.gz)")
    add("--questions", metavar="N", type=common.positive, default=300, help="the first N questions of it (300)")
    add("--answerable-only", action="store_true", help="leave out unanswerable questions")
    add("--seeds", metavar="N", type=common.positive, default=3, help="draws of each way but greedy (3)")
    output = Path("runs/experiments/decoding")
    add("--output", metavar="DIR", type=Path, default=output, help=f"folder for everything ({output})")
    options = parser.parse_args(argv)
    writer = load_writer(options.model)
    examples, _ = load_examples(options.dev, options.questions, options.answerable_only)
    rows = []
    with tqdm(desc="decoding", unit="pass", total=1 + (len(WAYS) - 1) * options.seeds) as bar:
        for way, settings in WAYS.items():
            passes = []
            for seed in range(options.seeds if settings else 1):
                passes.append(one_pass(writer, examples, settings, seed))
                bar.update()
            rows.append({"way": way, **settings, "passes": passes})
    silent = squad.official_metrics(examples, {example.id: "" for example in examples})
    notes = (
        f"{len(examples)} questions of {Path(options.dev).name}, {options.model}; greedy once, each other way with "
        f'{options.seeds} seeds: mean (lowest - highest). Always "" has F1 {silent["f1"]:.2f}.'
    )
    common.report(options.output, "Ways to choose the next token", rows, COLUMNS, notes)
    f1 = {row["way"]: [found["f1"] for found in row["passes"]] for row in rows}
    common.draw(options.output / "decoding.png", lambda axes: common.bars(axes, f1, "F1"), size=(6.5, 3.5))
    return 0


def one_pass(writer: Writer, examples: Sequence[squad.Example], settings: dict, seed: int) -> dict:
    """The official figures of answers written in one way, with how many are in their texts and how many are silent."""
    generator = torch.Generator(writer.device).manual_seed(seed)
    answers = writer.answer(examples, generator=generator, **settings)
    metrics = squad.official_metrics(examples, {e.id: text for e, text in zip(examples, answers, strict=True)})
    found = [text in e.context for e, text in zip(examples, answers, strict=True) if text]
    return metrics | {"in_text": sum(found) / max(1, len(found)), "silent": answers.count("") / len(answers)}


def over_seeds(row: dict, name: str, times: float = 1.0) -> str:
    return common.spread([times * found[name] for found in row["passes"]])


COLUMNS = {
    "way": lambda r: r["way"],
    "EM": lambda r: over_seeds(r, "exact"),
    "F1": lambda r: over_seeds(r, "f1"),
    "answers that stand in the text, %": lambda r: over_seeds(r, "in_text", 100),
    "silent, %": lambda r: over_seeds(r, "silent", 100),
}
