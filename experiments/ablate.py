"""Rank, targets and learning rate of LoRA, with equal steps on the same questions."""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from experiments import common, scripts

RANKS = (1, 2, 4, 8, 16, 32, 64)
TARGETS = {"query, value": "attention", "attention's four": "query,key,value,attention_output", "all six": "all"}
RATES = (5e-4, 2e-3)
# five configurations of rank, alpha, learning rate and targets, from few parameters to many
FIVE = (
    (4, 8, 1e-3, "query, value"),
    (8, 16, 1e-3, "query, value"),
    (8, 16, 1e-3, "attention's four"),
    (16, 32, 5e-4, "all six"),
    (64, 64, 3e-4, "all six"),
)
# the five of a student report on GPT-2, all with a dropout of 0.1: rank, alpha, learning rate, targets
GPT_FIVE = (
    (4, 16, 1e-4, "c_attn"),
    (8, 16, 2e-4, "c_attn"),
    (16, 16, 5e-4, "c_attn"),
    (8, 16, 2e-4, "c_attn,mlp.c_proj"),
    (32, 32, 2e-4, "c_attn,mlp.c_proj"),
)


def main(argv: Sequence[str]) -> int:
    parser = common.parser("ablate", "Rank x targets x learning rate of LoRA at equal steps; alpha is twice the rank.")
    add, rates = parser.add_argument, " ".join(map(str, RATES))
    add("--ranks", type=common.positive, nargs="+", default=RANKS, metavar="N", help=f"({' '.join(map(str, RANKS))})")
    add("--rates", type=float, nargs="+", metavar="X", help=f"learning rates ({rates}; those of the five)")
    add("--five", action="store_true", help="five fixed configurations of rank, alpha, rate and targets instead")
    add("--epochs", type=common.positive, default=1, metavar="N", help="passes of each run (1)")
    common.add_gpt(parser)
    options = parser.parse_args(argv)
    if options.ranks != RANKS and (options.gpt or options.five):
        parser.error("--ranks changes nothing with --five or --gpt: their ranks are fixed")
    if options.five and options.gpt:
        parser.error("--five changes nothing with --gpt, which has five of its own")
    runs = {setting: flags_of(*setting, options.epochs, options.gpt) for setting in settings(options)}
    # The runs learn answers, so --learn is refused as well.
    data = common.prepare_data(options, [*runs.values(), ["--learn"]], may_change=("ranks", "rates", "five"))
    script = "train_gpt.py" if options.gpt else "train.py"
    rows = []
    for (rank, alpha, rate, targets), flags in tqdm(runs.items(), desc="ablate", unit="run"):
        names = TARGETS.get(targets, targets)
        folder = options.output / f"r{rank}-a{alpha}-{rate:g}-{names.replace(',', '+')}"
        run = scripts.trained(folder, [*data, *flags, *options.flags], script)
        dev = scripts.scored(folder, options.dev, script)
        row = {"rank": rank, "alpha": alpha, "learning_rate": rate, "targets": targets, "folder": str(folder)}
        row |= {"seconds": run["seconds"], "peak_memory": run["peak_memory"], "held": run["metrics"], "dev": dev}
        rows.append(row | scripts.parameters(folder))
    columns = GPT_COLUMNS if options.gpt else COLUMNS
    common.report(options.output, "LoRA by rank, targets and learning rate", rows, columns, notes(options, rows))
    common.draw(options.output / "ablate.png", lambda axes: plot(axes, rows, bool(options.gpt)), size=(8.5, 4.5))
    return 0


def settings(options: argparse.Namespace) -> list[tuple]:
    """(rank, alpha, learning rate, targets) of each run."""
    if options.gpt or options.five:
        five = GPT_FIVE if options.gpt else FIVE
        return [(rank, alpha, other, names) for rank, alpha, own, names in five for other in options.rates or (own,)]
    grid = itertools.product(options.ranks, options.rates or RATES, TARGETS)
    return [(rank, 2 * rank, rate, targets) for rank, rate, targets in grid]


def flags_of(rank: int, alpha: float, rate: float, targets: str, epochs: int, gpt: str) -> list[str]:
    """The flags of one run."""
    flags = ["--lora-rank", str(rank), "--lora-alpha", str(alpha), "--learning-rate", str(rate)]
    flags += ["--lora-targets", TARGETS.get(targets, targets), "--epochs", str(epochs), "--log-every", "10"]
    return flags + ["--model", gpt, "--lora-dropout", "0.1"] * bool(gpt)


def notes(options: argparse.Namespace, rows: Sequence[dict]) -> str:
    """What stands above the table: the data, and which row is chosen by what."""
    if options.gpt:
        best, by = min(rows, key=lambda row: row["held"]["loss"]), "the loss"
        more = f"all with {options.gpt}"
    else:
        best = max(rows, key=lambda row: common.held_f1(row["held"]))
        by, more = common.judged_by(best["held"]), "at the threshold of the held-out part if there is one"
    questions, held = scripts.sizes(rows[0]["folder"])
    return (
        f"{questions} questions of {Path(options.train).name}; chosen by {by} on {held} questions of "
        f"held-out articles: rank {best['rank']}, {best['targets']}, rate {best['learning_rate']:g}. "
        f"{Path(options.dev).name} was scored once per row, {more}; {common.silence(best['dev'])}."
    )


COLUMNS = {
    "targets": lambda r: r["targets"],
    "rank": lambda r: str(r["rank"]),
    "alpha": lambda r: f"{r['alpha']:g}",
    "rate": lambda r: f"{r['learning_rate']:g}",
    "trained": lambda r: f"{r['parameters']:,} ({r['share']:.2%})",
    "held-out F1": lambda r: f"{common.held_f1(r['held']):.2f}",
    "HasAns F1, always answering": lambda r: f"{common.has_answer_f1(r['held']):.2f}",
    "dev EM": lambda r: common.with_interval(common.at_own_threshold(r["dev"]), "exact"),
    "dev F1": lambda r: common.with_interval(common.at_own_threshold(r["dev"]), "f1"),
    "dev HasAns F1, always answering": lambda r: f"{common.has_answer_f1(r['dev']):.2f}",
    "seconds": lambda r: f"{r['seconds']:.0f}",
    "GiB": lambda r: f"{r['peak_memory'] / 2**30:.2f}",
}


GPT_COLUMNS = {name: COLUMNS[name] for name in ("targets", "rank", "alpha", "rate", "trained")}
GPT_COLUMNS |= {
    "held-out loss": lambda r: f"{r['held']['loss']:.3f}",
    "dev loss": lambda r: f"{r['dev']['loss']:.3f}",
    "dev EM": lambda r: f"{r['dev']['exact']:.2f}",
    "dev F1": lambda r: f"{r['dev']['f1']:.2f}",
    "HasAns F1": lambda r: f"{r['dev'].get('HasAns_f1', float('nan')):.2f}",
    "seconds": COLUMNS["seconds"],
    "GiB": COLUMNS["GiB"],
}


def plot(axes, rows: list[dict], is_gpt: bool = False) -> None:
    """A figure on dev against the rank: HasAns F1, always answering; of GPT the loss. Colours for targets, line styles
    for rates."""
    figure = (lambda dev: dev["loss"]) if is_gpt else common.has_answer_f1
    kinds, rates = (sorted({row[name] for row in rows}) for name in ("targets", "learning_rate"))
    styles = zip(itertools.cycle((":", "-", "--")), rates, strict=False)
    for (color, targets), (style, rate) in itertools.product(enumerate(kinds), styles):
        same = [row for row in rows if row["targets"] == targets and row["learning_rate"] == rate]
        points = sorted((row["rank"], figure(row["dev"])) for row in same)
        if points:
            axes.plot(*zip(*points, strict=True), style, marker="o", color=f"C{color}", label=f"{targets}; {rate:g}")
    ranks = sorted({row["rank"] for row in rows})
    label = "loss per token on dev" if is_gpt else "F1 on dev questions with an answer, always answering"
    axes.set(xscale="log", xlabel="rank", ylabel=label)
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.legend(title="targets; learning rate", fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)
