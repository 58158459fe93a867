"""Pointing or writing: the same questions answered by an encoder that points and a decoder that writes."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import minirun
import squad
from experiments import common
from minibert.qa import load_reader
from minigpt.qa import Writer, load_writer
from minirun import Parser, autocast
from squad.calibration import calibration_error
from squad.dataset import load_examples
from squad.prompts import answer_loss, collate_prompts, make_prompts

AREA = "tells questions without an answer from those with one: area under the ROC curve of its odds"


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="python -m experiments pointing", description=__doc__)
    output = Path("runs/experiments/pointing")
    add = parser.add_argument
    add("--reader", metavar="RUN", help="a run of train.py; the adapter that comes with this package by default")
    add("--writer", metavar="RUN", required=True, help="a run of train_gpt.py")
    add("--dev", metavar="FILE", default=str(common.DATA / "dev.json.gz"), help="(data/dev.json.gz)")
    add("--questions", metavar="N", type=common.positive, default=300, help="the first N questions of it (300)")
    add("--output", metavar="DIR", type=Path, default=output, help=f"folder for everything ({output})")
    options = parser.parse_args(argv)
    examples, _ = load_examples(options.dev, options.questions)
    found = {"points": pointed(options.reader, examples), "writes": written(options.writer, examples)}
    silent = squad.official_metrics(examples, {e.id: "" for e in examples})
    rows = [{"figure": name, **{way: row[name] for way, row in found.items()}} for name in found["points"]]
    columns = {
        "": lambda r: r["figure"],
        f"points: {options.reader or 'the adapter of this package'}": lambda r: r["points"],
        f"writes: {options.writer}": lambda r: r["writes"],
    }
    notes = f"{len(examples)} questions of {Path(options.dev).name}; {common.silence({'always_empty': silent})}."
    common.report(options.output, "Pointing or writing", rows, columns, notes)
    return 0


def pointed(run: str | None, examples: Sequence[squad.Example]) -> dict[str, str]:
    """The figures of answers that are spans of their texts."""
    reader = load_reader(run) if run else load_reader()
    began = time.perf_counter()
    answers = reader(
        [e.question for e in examples], [e.context for e in examples], progress=minirun.progress_bar("point")
    )
    seconds = time.perf_counter() - began
    texts = {e.id: answer["answer"] for e, answer in zip(examples, answers, strict=True)}
    exact, _ = squad.question_scores(examples, texts)
    error = calibration_error(np.array([answer["score"] for answer in answers]), exact)
    told = tells_unanswerable(examples, np.array([answer["null_margin"] for answer in answers]))
    knows = {"its place in the text": "yes", AREA: f"{told:.2f}", "calibration error": f"{error:.1%}"}
    can = {"can say what is not in the text word for word": "no"}
    return figures(examples, texts, seconds) | knows | can


def written(run: str, examples: Sequence[squad.Example]) -> dict[str, str]:
    """The figures of answers that were written, greedily."""
    writer = load_writer(run)
    began = time.perf_counter()
    answers = writer.answer(examples, minirun.progress_bar("write"))
    texts = dict(zip([e.id for e in examples], answers, strict=True))
    seconds = time.perf_counter() - began
    told = tells_unanswerable(examples, silence_log_probabilities(writer, examples))
    knows = {"its place in the text": "no", AREA: f"{told:.2f}", "calibration error": "not fitted"}
    can = {"can say what is not in the text word for word": "yes"}
    return figures(examples, texts, seconds) | knows | can


@torch.inference_mode()
def silence_log_probabilities(writer: Writer, examples: Sequence[squad.Example]) -> np.ndarray:
    """log P(the tokens of silence | context, question) of each question, eos among them: the writer's odds of ""."""
    model, device = writer.model, writer.device
    eos_id = model.config.eos_token_id
    unanswered = [replace(example, answers=()) for example in examples]
    prompts = make_prompts(unanswered, writer.tokenizer, writer.max_length, eos_id, silence=writer.silence)
    found = []
    for row in minirun.progress_bar("odds of silence")(range(len(prompts))):
        input_ids, mask, labels = (tensor.to(device) for tensor in collate_prompts(prompts, [row], eos_id))
        with autocast(device, writer.precision):
            loss = answer_loss(model.transformer(input_ids, mask), labels, model.lm_head)
        found.append(-float(loss) * int(prompts.answer_tokens[row]))
    return np.array(found)


def tells_unanswerable(examples: Sequence[squad.Example], odds: np.ndarray) -> float:
    """The area under the ROC curve: how often a question without an answer has higher odds of "" than one with.

    0.5 is a coin's; nan where all questions are of one kind.
    """
    none = np.array([not example.answers for example in examples])
    a, b = odds[none][:, None], odds[~none]
    return float(((a > b) + (a == b) / 2).mean()) if a.size and b.size else float("nan")


def figures(examples: Sequence[squad.Example], texts: dict[str, str], seconds: float) -> dict[str, str]:
    metrics = squad.official_metrics(examples, texts)
    given = [e for e in examples if texts[e.id]]
    inside = sum(texts[e.id] in e.context for e in given) / max(1, len(given))
    keys = {"EM": "exact", "F1": "f1", "HasAns F1": "HasAns_f1", "NoAns F1": "NoAns_f1"}
    row = {name: f"{metrics[key]:.2f}" if key in metrics else "-" for name, key in keys.items()}
    row["answered"] = f"{len(given) / len(examples):.0%}"
    row["answers that stand in the text"] = f"{inside:.0%}" if given else "none given"
    return row | {"questions a second": f"{len(examples) / seconds:.1f}"}
