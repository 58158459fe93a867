"""Rank, targets and learning rate of LoRA, with equal steps on the same questions."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from experiments import common

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


def main(argv: Sequence[str]) -> int:
    parser = common.parser("ablate", "Rank x targets x learning rate of LoRA at equal steps; alpha is twice the rank.")
    add = parser.add_argument
    add("--ranks", type=common.positive, nargs="+", default=RANKS, metavar="N", help=f"({' '.join(map(str, RANKS))})")
    add(
        "--rates",
        type=float,
        nargs="+",
        default=RATES,
        metavar="X",
        help=f"learning rates ({' '.join(map(str, RATES))})",
    )
    add("--five", action="store_true", help="five fixed configurations of rank, alpha, rate and targets instead")
    options = parser.parse_args(argv)
    data = common.prepare_data(options, may_change=("ranks", "rates", "five"))
    grid = itertools.product(options.ranks, options.rates, TARGETS)
    settings = FIVE if options.five else [(rank, 2 * rank, rate, targets) for rank, rate, targets in grid]
    rows = []
    for rank, alpha, rate, targets in tqdm(settings, desc="ablate", unit="run"):
        names = ("--lora-rank", str(rank), "--lora-alpha", str(alpha), "--learning-rate", str(rate))
        folder = options.output / f"r{rank}-a{alpha}-{rate:g}-{TARGETS[targets].replace(',', '+')}"
        flags = [*data, *names, "--lora-targets", TARGETS[targets], "--epochs", "1", "--log-every", "10"]
        run = common.trained(folder, flags + common.free_flags(flags, options.flags))
        dev = common.scored(folder, options.dev)
        row = {"rank": rank, "alpha": alpha, "learning_rate": rate, "targets": targets, **common.parameters(folder)}
        row |= {"seconds": run["seconds"], "peak_memory": run["peak_memory"], "held": run["metrics"], "dev": dev}
        rows.append(row)
    best = max(rows, key=lambda row: common.held_f1(row["held"]))
    notes = (
        f"{options.questions} questions of {Path(options.train).name}, one pass; chosen by "
        f"{common.judged_by(best['held'])} on {options.held} questions of held-out articles: rank {best['rank']}, "
        f"{best['targets']}, rate {best['learning_rate']:g}. "
        f"{Path(options.dev).name} was scored once per row, at the threshold of the held-out part if there is one."
    )
    common.report(options.output, "LoRA by rank, targets and learning rate", rows, COLUMNS, notes)
    common.draw(options.output / "ablate.png", lambda axes: plot(axes, rows), size=(8.5, 4.5))
    return 0


COLUMNS = {
    "targets": lambda r: r["targets"],
    "rank": lambda r: str(r["rank"]),
    "alpha": lambda r: f"{r['alpha']:g}",
    "rate": lambda r: f"{r['learning_rate']:g}",
    "trained": lambda r: f"{r['parameters']:,} ({r['share']:.2%})",
    "held-out F1": lambda r: f"{common.held_f1(r['held']):.2f}",
    "HasAns F1, always answering": lambda r: f"{common.has_answer_f1(r['held']):.2f}",
    "dev EM": lambda r: common.with_interval(r["dev"], "exact"),
    "dev F1": lambda r: common.with_interval(r["dev"], "f1"),
    "dev HasAns F1, always answering": lambda r: f"{common.has_answer_f1(r['dev']):.2f}",
    "seconds": lambda r: f"{r['seconds']:.0f}",
    "GiB": lambda r: f"{r['peak_memory'] / 2**30:.2f}",
}


def plot(axes, rows: list[dict]) -> None:
    """HasAns F1 on dev, always answering, against the rank: colours for targets, line styles for rates."""
    kinds, rates = (sorted({row[name] for row in rows}) for name in ("targets", "learning_rate"))
    styles = zip(itertools.cycle((":", "-", "--")), rates, strict=False)
    for (color, targets), (style, rate) in itertools.product(enumerate(kinds), styles):
        same = [row for row in rows if row["targets"] == targets and row["learning_rate"] == rate]
        points = sorted((row["rank"], common.has_answer_f1(row["dev"])) for row in same)
        if points:
            axes.plot(*zip(*points, strict=True), style, marker="o", color=f"C{color}", label=f"{targets}; {rate:g}")
    ranks = sorted({row["rank"] for row in rows})
    axes.set(xscale="log", xlabel="rank", ylabel="F1 on dev questions with an answer, always answering")
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.legend(title="targets; learning rate", fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)
