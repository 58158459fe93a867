"""What each part of train.py's recipe is worth: its defaults with one part changed at a time, three seeds each."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from experiments import common, scripts

CHANGES = {
    "train.py's defaults": (),
    "the head learns no faster than the adapters": ("--head-rate", "1"),
    "a quarter of the learning rate": ("--learning-rate", "5e-4"),
    "adapters on query and value only": ("--lora-targets", "attention"),
    "rank 1": ("--lora-rank", "1", "--lora-alpha", "2"),
    "windows without an answer weigh as others": ("--null-weight", "1"),
}


def main(argv: Sequence[str]) -> int:
    parser = common.parser("recipe", "train.py's defaults, one part changed at a time, several seeds each.")
    parser.add_argument("--seeds", type=common.positive, default=3, metavar="N", help="runs of each (3)")
    options = parser.parse_args(argv)
    runs = {
        (seed, name): [*change, "--seed", str(seed), "--epochs", "1", "--log-every", "10"]
        for seed in range(options.seeds)
        for name, change in CHANGES.items()
    }
    data = common.prepare_data(options, runs.values(), may_change=("seeds",))
    found: dict[str, list[dict]] = {name: [] for name in CHANGES}
    for (seed, name), flags in tqdm(runs.items(), desc="recipe", unit="run"):
        folder = options.output / f"{'-'.join(CHANGES[name]).replace('--', '') or 'defaults'}-seed-{seed}"
        run = scripts.trained(folder, [*data, *flags, *options.flags])
        figures = {"seed": seed, "held": run["metrics"], "dev": scripts.scored(folder, options.dev)}
        found[name].append({**figures, **scripts.parameters(folder)})
    rows = [{"change": name, "runs": runs} for name, runs in found.items()]
    questions, held = scripts.sizes(folder)
    notes = (
        f"{questions} questions of {Path(options.train).name}, one pass, {options.seeds} seeds: mean (lowest - "
        f"highest). {Path(options.dev).name} was scored once per run, at the threshold of {held} questions of "
        f"held-out articles if there is one; {common.silence(rows[0]['runs'][0]['dev'])}."
    )
    common.report(options.output, "What each part of the recipe is worth", rows, COLUMNS, notes)
    found_spans = {row["change"]: [common.has_answer_f1(run["dev"]) for run in row["runs"]] for row in rows}
    label = "HasAns F1 on dev, always answering"
    common.draw(options.output / "recipe.png", lambda axes: common.bars(axes, found_spans, label), size=(8, 3))
    return 0


def over_seeds(row: dict, part: str, figure: Callable[[dict], float]) -> str:
    return common.spread([figure(run[part]) for run in row["runs"]])


COLUMNS = {
    "changed": lambda r: r["change"],
    "trained": lambda r: f"{r['runs'][0]['parameters']:,}",
    "held-out HasAns F1, always answering": lambda r: over_seeds(r, "held", common.has_answer_f1),
    "dev HasAns F1, always answering": lambda r: over_seeds(r, "dev", common.has_answer_f1),
    "dev F1": lambda r: over_seeds(r, "dev", lambda figures: common.at_own_threshold(figures)["f1"]),
}
