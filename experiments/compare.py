"""LoRA against full fine-tuning, each at its best learning rate, on the same questions for the same epochs."""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import squad
from experiments import common, scripts
from minibert import qa

# kind -> the flags that make it, and its learning rates; the head then learns at 1e-2 to 4e-2, and at 1e-3 to 4e-3
KINDS = {
    "LoRA": (["--lora-rank", "8", "--lora-targets", "all"], (1e-3, 2e-3, 4e-3)),
    "full": (["--lora-rank", "0", "--head-rate", "20"], (5e-5, 1e-4, 2e-4)),
}
QUESTION = "What is the capital of France?"
CONTEXT = "Paris is the capital and largest city of France. It lies on the Seine. " * 8


def main(argv: Sequence[str]) -> int:
    parser = common.parser("compare", "LoRA (rank 8, six linears) against full fine-tuning; three learning rates each.")
    parser.add_argument("--epochs", type=common.positive, default=2, metavar="N", help="(2)")
    options = parser.parse_args(argv)
    tried = {
        (kind, rate): [*made, "--learning-rate", str(rate), "--epochs", str(options.epochs), "--log-every", "1"]
        for kind, (made, rates) in KINDS.items()
        for rate in rates
    }
    # Losses are listed by epoch, so there must be one evaluation in each.
    data = common.prepare_data(options, [*tried.values(), ["--eval-every"]])
    runs = {}
    for (kind, rate), flags in tqdm(tried.items(), desc="compare", unit="run"):
        folder = options.output / f"{kind}-{rate:g}"
        run = scripts.trained(folder, [*data, *flags, *options.flags])
        runs[kind, rate] = {"kind": kind, "rate": rate, "folder": str(folder), **run, "losses": losses(folder)}
    rows = []
    for kind in KINDS:
        best = max((run for (k, _), run in runs.items() if k == kind), key=lambda r: common.held_f1(r["metrics"]))
        folder = Path(best["folder"])
        row = {**best, "dev": scripts.scored(folder, options.dev), "latency": latency(folder)}
        rows.append({**row, "parameters": scripts.parameters(folder), "bytes": size_of(folder)})
    others = "; ".join(f"{k} {r:g}: {common.held_f1(run['metrics']):.2f}" for (k, r), run in runs.items())
    questions, held = scripts.sizes(rows[0]["folder"])
    notes = (
        f"{questions} questions of {Path(options.train).name}, {options.epochs} epochs. Each rate was chosen "
        f"by {common.judged_by(rows[0]['metrics'])} on {held} questions of held-out articles: {others}. "
        f"{Path(options.dev).name} was scored once per row; {common.silence(rows[0]['dev'])}. "
        "The training loss counts windows without an answer "
        "--null-weight times (1.5 by default), the held-out loss once. Latency: the median of 40 single questions on a "
        "text of 130 tokens, in float32."
    )
    common.report(options.output, "LoRA against full fine-tuning", rows, COLUMNS, notes)
    common.draw(options.output / "compare.png", lambda axes: plot(axes, list(runs.values()), rows))
    return 0


def losses(folder: Path) -> list[dict]:
    """Each epoch's mean training loss and loss on the held-out part, from log.jsonl."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    result, train = [], []
    for line in lines:
        if "loss" in line:
            train.append(line["loss"])
        else:
            result.append({"epoch": line["epoch"], "train": statistics.mean(train), "held": line["dev_loss"]})
            train = []
    return result


def size_of(folder: Path) -> int:
    """Bytes of the saved weights: the adapter's, or the model's."""
    return sum(path.stat().st_size for part in ("adapter", "model") for path in (folder / part).glob("*.safetensors"))


def latency(folder: Path) -> dict[str, float]:
    """Milliseconds for one question, by form: a full model or a merged adapter, and an adapter beside its base."""
    found = {}
    for form in ("merged", "unmerged") if (folder / "adapter").exists() else ("merged",):
        model, tokenizer, settings = qa.load_model(folder, merged=form == "merged")
        found[form] = _milliseconds(squad.Reader(model, tokenizer, **settings))
    return found


def _milliseconds(reader: squad.Reader) -> float:
    measured, times = [], 40
    for _ in range(times + 5):
        began = time.perf_counter()
        reader(QUESTION, CONTEXT)
        measured.append(1000 * (time.perf_counter() - began))
    return statistics.median(measured[5:])


COLUMNS = {
    "": lambda r: r["kind"],
    "rate": lambda r: f"{r['rate']:g}",
    "trained": lambda r: f"{r['parameters']['parameters']:,} ({r['parameters']['share']:.2%})",
    "train loss by epoch": lambda r: ", ".join(f"{x['train']:.3f}" for x in r["losses"]),
    "held-out loss by epoch": lambda r: ", ".join(f"{x['held']:.3f}" for x in r["losses"]),
    "dev EM": lambda r: common.with_interval(common.at_own_threshold(r["dev"]), "exact"),
    "dev F1": lambda r: common.with_interval(common.at_own_threshold(r["dev"]), "f1"),
    "dev HasAns F1, always answering": lambda r: f"{common.has_answer_f1(r['dev']):.2f}",
    "seconds": lambda r: f"{r['seconds']:.0f}",
    "peak GiB": lambda r: f"{r['peak_memory'] / 2**30:.2f}",
    "file MB": lambda r: f"{r['bytes'] / 1e6:.1f}",
    "latency ms": lambda r: ", ".join(f"{form} {ms:.1f}" for form, ms in r["latency"].items()),
}


def plot(axes, runs: list[dict], chosen: list[dict]) -> None:
    """Loss by epoch of every run: held-out articles as full lines, training dashed; the chosen runs stronger."""
    best = {row["folder"] for row in chosen}
    for run in runs:
        color = "tab:blue" if run["kind"] == "LoRA" else "tab:red"
        strong, epochs = run["folder"] in best, [x["epoch"] for x in run["losses"]]
        label = f"{run['kind']}, rate {run['rate']:g}" + ", chosen" * strong
        style = {"color": color, "alpha": 1.0 if strong else 0.3, "marker": "o"}
        axes.plot(epochs, [x["held"] for x in run["losses"]], label=label, **style)
        axes.plot(epochs, [x["train"] for x in run["losses"]], linestyle="--", **style)
    axes.set(xlabel="epoch", ylabel="loss: full line held-out articles, dashed training")
    axes.set_xticks(range(1, len(chosen[0]["losses"]) + 1))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
