"""Quality against time: this project's default recipe beside that of most reports, on the same questions.

    pip install -e '.[bench]' && python bench/learning.py           all of the excerpt: 92 minutes on 2 Zen 4 cores
    python bench/learning.py --questions 2000 --rates 5e-5 1e-3     shorter

Theirs: transformers and PEFT, LoRA of rank 8 on query and value, batches of 16, 3 epochs, AdamW, linear decay, at its
default rate of 5e-5 and at others; without dropout and with dynamic padding, which makes it several times faster on a
CPU than as it is shipped. Ours: train.py's defaults, no question made. Scores are cross-fitted F1 and HasAns F1 when
always answering on --dev, after each epoch or quarter; the time is that of training alone, without evaluations. In
the end the time that ours needs to where each of theirs ends, and with --plot a picture of all.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import squad
from bench.machine import processor
from bench.sides import their_model
from experiments.common import draw
from minihub import load_tokenizer
from minirun import autocast, choose_precision, keep_freed_memory, missing_packages, progress_bar
from squad.dataset import load_examples

ROOT = Path(__file__).parent.parent
EPOCHS, BATCH = 3, 16
CPU = torch.device("cpu")
Point = tuple[float, float, float, float]  # passes over the questions, seconds of training, two scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=11_960, help="the first N of the excerpt (11960)")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 5e-4, 2e-3], help="of theirs (5e-5 5e-4 2e-3)")
    parser.add_argument("--dev", default="excerpt", help="SQuAD file, or excerpt (excerpt)")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw the curves into this picture")
    options = parser.parse_args()
    if missing := missing_packages("transformers", "peft"):
        parser.error(f"{', '.join(missing)} not installed: pip install -e '.[bench]'")
    print(f"{processor()}, {torch.get_num_threads()} threads, {options.questions:,} questions\n")
    print("| recipe | passes | minutes | cross-fitted F1 | HasAns F1, always answering |")
    print("| --- | --- | --- | --- | --- |")
    dev = squad.find_data(options.dev, "dev")
    runs = [("minibert, default", ours(options.questions, str(dev)))]
    runs += [(f"transformers + PEFT, rate {rate:g}", theirs(options.questions, rate, dev)) for rate in options.rates]
    found: dict[str, list[Point]] = {name: [] for name, _ in runs}
    for name, points in runs:
        for point in points:
            passes, seconds, f1, has_answer = point
            print(f"| {name} | {passes:.2f} | {seconds / 60:.1f} | {f1:.2f} | {has_answer:.2f} |", flush=True)
            found[name].append(point)
    mine, *peers = found.values()
    for name, peer in zip([*found][1:], peers, strict=True):
        print(f"\n{name}: {in_words(mine, peer)}")
    if options.plot:
        draw(options.plot, functools.partial(plot, found), panels=2, size=(9, 3.4))


def in_words(mine: list[Point], peer: list[Point]) -> str:
    """When ours is where this peer ends, by cross-fitted F1."""
    _, theirs, f1, _ = peer[-1]
    ends = f"ends at F1 {f1:.2f} after {theirs / 60:.1f} minutes"
    reached = [seconds for _, seconds, own, _ in mine if own >= f1]
    if not reached:
        return f"{ends}, where ours does not come"
    return f"{ends}, ours is there after {min(reached) / 60:.1f}, {min(reached) / theirs:.0%} of the time"


def plot(found: dict[str, list[Point]], *panels) -> None:
    """Both scores over minutes of training."""
    for panel, title, at in zip(panels, ("cross-fitted F1", "HasAns F1, always answering"), (2, 3), strict=True):
        for name, points in found.items():
            panel.plot([point[1] / 60 for point in points], [point[at] for point in points], "o-", label=name)
        panel.set(title=title, xlabel="minutes of training")
    panels[1].legend()


def ours(questions: int, dev: str) -> Iterator[Point]:
    """A run of train.py for each quarter, so that each ends with its own decay, as a run of that length would."""
    for quarter in (0.25, 0.5, 0.75, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            count = str(int(questions * quarter))
            flags = ("--max-train-examples", count, "--dev", dev, "--output", str(run), "--log-every", "1")
            subprocess.run([sys.executable, "train.py", *flags], cwd=ROOT, check=True, capture_output=True)
            speeds = [json.loads(line)["windows_per_second"] for line in (run / "timing.jsonl").open()]
            steps = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"]
            seconds = steps * BATCH * sum(1 / speed for speed in speeds) / len(speeds)
            yield quarter, seconds, *scores(json.loads((run / "metrics.json").read_text()))


def theirs(questions: int, rate: float, dev: Path) -> Iterator[Point]:
    """transformers + PEFT, evaluated after each epoch."""
    keep_freed_memory()
    torch.manual_seed(0)
    model = their_model("minilm", dropout=0.0).get_base_model()  # PEFT's own forward drops token_type_ids (0.21)
    tokenizer, dtype = load_tokenizer("minilm"), choose_precision("auto", CPU)
    train = squad.load_dataset(squad.find_data("excerpt", "train"), tokenizer, limit=questions)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    order = [squad.training_batches(train.windows.lengths, BATCH, 0, epoch) for epoch in range(EPOCHS)]
    total, done, seconds = sum(map(len, order)), 0, 0.0
    for epoch, batches in enumerate(order):
        for rows in progress_bar(f"rate {rate:g}, epoch {epoch + 1}", "batch")(batches):
            began = time.perf_counter()
            batch = squad.collate(train.windows, rows)
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - done / total)
            with autocast(CPU, dtype):
                found = model(
                    **named(*batch[:3]), start_positions=batch.start_positions, end_positions=batch.end_positions
                )
            found.loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)  # as run_qa does by default
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            seconds += time.perf_counter() - began
        yield epoch + 1.0, seconds, *scores(evaluated(model.eval(), dev, tokenizer, dtype))
        model.train()


def named(input_ids: torch.Tensor, token_type_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict:
    return {"input_ids": input_ids, "token_type_ids": token_type_ids, "attention_mask": attention_mask}


def evaluated(model: torch.nn.Module, dev: Path, tokenizer, dtype: torch.dtype) -> dict:
    """The same decoding and the same figures as for ours."""
    examples, _ = load_examples(dev)

    def logits(*inputs):
        found = model(**named(*inputs))
        return found.start_logits, found.end_logits

    with autocast(CPU, dtype):
        predictions = squad.predict(logits, examples, squad.make_windows(examples, tokenizer))
    return squad.evaluate(examples, predictions)


def scores(metrics: dict) -> tuple[float, float]:
    return squad.headline(metrics)["f1"], metrics["always_answer"]["HasAns_f1"]


if __name__ == "__main__":
    main()
