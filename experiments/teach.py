"""How the shipped adapter was made: one model trained on adapters, one in full, and a third taught by both."""

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import squad
from experiments import common, scripts
from minirun import Parser

# Training every weight needs a smaller rate and fewer epochs than training adapters (docs/results.md).
FULL = ("--lora-rank", "0", "--learning-rate", "1e-4", "--head-rate", "20", "--epochs", "1", "--seed", "1")


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="python -m experiments teach", description=__doc__)
    add = parser.add_argument
    add("--train", metavar="FILE", default="sample", help="SQuAD file to train on, as for train.py (sample)")
    add("--augment", metavar="N", type=common.positive, default=9000, help="questions made of its others (9000)")
    add("--dev", metavar="FILE", default="excerpt", help="SQuAD file to score on; squad_v2: official (excerpt)")
    add("--output", metavar="DIR", type=Path, default=Path("runs/experiments/teach"), help="folder for everything")
    add("flags", nargs="*", metavar="-- FLAGS", help="after --: flags of train.py for all runs")
    options = parser.parse_args(argv)
    if options.train == "excerpt":
        parser.error("--train excerpt: each run would take as much of it as it has time for; give data/train.json.gz")
    adapters, full, taught = (options.output / name for name in ("adapters", "every-weight", "adapters-taught-by-both"))
    runs = {adapters: (), full: FULL, taught: ("--teachers", f"{adapters},{full}")}
    common.check_flags(options.flags, [["--augment"], *runs.values()])
    common.keep_options(options)
    data = ["--train", options.train, "--dev", options.dev, "--augment", str(options.augment)]
    rows = []
    for folder, flags in tqdm(runs.items(), desc="teach", unit="run"):
        run = scripts.trained(folder, [*data, *flags, *options.flags])
        rows.append({"model": folder.name.replace("-", " "), **scripts.parameters(folder), **run})
    judged_by = common.judged_by(rows[0]["metrics"])
    notes = (
        f"All learned from {Path(options.train).name} and at most {options.augment:,} questions made of it, and "
        f"are scored on {Path(options.dev).name} after their last pass, with {judged_by}; "
        f"{common.silence(rows[0]['metrics'])}. Nothing is chosen."
    )
    common.report(options.output, "Taught by two models of the same questions", rows, COLUMNS, notes)
    found = {row["model"]: [common.held_f1(row["metrics"])] for row in rows}
    common.draw(options.output / "teach.png", lambda axes: common.bars(axes, found, "F1 on dev"), size=(7, 2))
    return 0


COLUMNS = {
    "trained": lambda r: r["model"],
    "parameters": lambda r: f"{r['parameters']:,} ({r['share']:.2%})",
    "EM": lambda r: common.with_interval(squad.headline(r["metrics"]), "exact"),
    "F1": lambda r: common.with_interval(squad.headline(r["metrics"]), "f1"),
    "HasAns F1": lambda r: f"{squad.headline(r['metrics']).get('HasAns_f1', float('nan')):.2f}",
    "NoAns F1": lambda r: f"{squad.headline(r['metrics']).get('NoAns_f1', float('nan')):.2f}",
    "HasAns F1, always answering": lambda r: f"{common.has_answer_f1(r['metrics']):.2f}",
    "minutes": lambda r: f"{r['seconds'] / 60:.0f}",
}
