"""What experiments share: a split of the train file by article, runs of train.py with their cost, tables, plots."""

import argparse
import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

import squad
from minihub import atomic_write, only_writer, read_object, write_json
from minirun import Parser

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"


def positive(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text}, expected a whole number of at least 1")
    return int(text)


def parser(name: str, description: str, runs: bool = True) -> argparse.ArgumentParser:
    """A parser with the options of an experiment on a part of the train file. runs: whether it runs train.py."""
    made = Parser(prog=f"python -m experiments {name}", description=description)
    add = made.add_argument
    add(
        "--train",
        metavar="FILE",
        default=str(DATA / "train.json.gz"),
        help="SQuAD file to train on (data/train.json.gz)",
    )
    add("--questions", metavar="N", type=positive, default=4000, help="train questions, drawn at random (4000)")
    add("--output", metavar="DIR", type=Path, default=Path("runs") / "experiments" / name, help="folder for everything")
    if runs:
        add("--held", metavar="N", type=positive, default=400, help="questions of held-out train articles (400)")
        add("--dev", metavar="FILE", default=str(DATA / "dev.json.gz"), help="scored once per row (data/dev.json.gz)")
        add("flags", nargs="*", metavar="-- FLAGS", help="after --: flags of train.py for all runs")
    else:
        made.set_defaults(held=1)  # not used, but a split needs one
    return made


def add_gpt(parser: argparse.ArgumentParser) -> None:
    """--gpt or --gpt MODEL: the experiment with GPT-2 instead of BERT."""
    help = "GPT-2 instead of BERT: a hub id (openai-community/gpt2) or a folder"
    parser.add_argument("--gpt", metavar="MODEL", nargs="?", const="openai-community/gpt2", default="", help=help)


def split_by_article(
    examples: Sequence[squad.Example], questions: int, held: int, seed: int = 0
) -> tuple[list[squad.Example], list[squad.Example]]:
    """Two lists of examples that share no article: at most `questions` to train on, at most `held` to choose by.

    Articles are held out in random order until they have twice as many questions as needed, so that the drawn ones come
    from several articles, or half of all questions. Raises ValueError when one of the lists would be empty.
    """
    rng = np.random.default_rng(seed)
    by_title = defaultdict(list)
    for example in examples:
        by_title[example.title].append(example)
    titles = [str(title) for title in rng.permutation(sorted(by_title))]
    kept: list[squad.Example] = []
    while titles[1:] and len(kept) < min(2 * held, len(examples) / 2):
        kept += by_title[titles.pop()]
    rest = [example for title in titles for example in by_title[title]]
    parts = []
    for pool, size in ((rest, questions), (kept, held)):
        chosen = sorted(rng.permutation(len(pool))[:size].tolist())
        parts.append([pool[i] for i in chosen])
    if not all(parts):
        raise ValueError(f"{len(by_title)} articles are too few to hold some out of training, expected at least 2")
    return parts[0], parts[1]


def write_squad(examples: Sequence[squad.Example], path: Path) -> None:
    """Examples -> a SQuAD file, grouped by article and context."""
    articles: dict = defaultdict(lambda: defaultdict(list))
    for e in examples:
        answers = [{"text": a.text, "answer_start": a.start} for a in e.answers]
        qa = {"id": e.id, "question": e.question, "answers": answers, "is_impossible": e.is_impossible}
        articles[e.title][e.context].append(qa)
    data = [
        {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs.items()]}
        for title, paragraphs in articles.items()
    ]
    with atomic_write(path.parent) as part:
        (part / path.name).write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")


def check_flags(given: Sequence[str], runs: Iterable[Sequence[str]]) -> None:
    """Raise ValueError when a flag given after -- is among those that the experiment gives to one of its `runs`."""
    own = {word for flags in runs for word in flags if word.startswith("--")}
    own |= {"--train", "--dev", "--output", "--resume", "--evaluate"}
    taken = [word for word in given if word.split("=")[0] in own]
    if taken:
        raise ValueError(f"{', '.join(taken)} after --: this experiment sets that itself, see its --help")


def prepare_data(
    options: argparse.Namespace, runs: Iterable[Sequence[str]] = (), may_change: Sequence[str] = ()
) -> list[str]:
    """Write the two parts of the train file into the output folder; returns the flags that make train.py use them.

    Args:
        runs: the flags that this experiment gives to each of its runs of train.py, beside those returned.
        may_change: options that only say what more to try; all others must stay as they were.
    Raises ValueError when the folder holds an experiment with other options, or a flag after -- is one of its own.
    """
    check_flags(getattr(options, "flags", ()), runs)
    fit, held = (options.output / name for name in ("fit.json", "held.json"))

    def write_parts() -> None:
        parts = split_by_article(squad.read_examples(options.train), options.questions, options.held)
        for examples, path in zip(parts, (fit, held), strict=True):
            write_squad(examples, path)

    keep_options(options, may_change, write_parts)
    return ["--train", str(fit), "--dev", str(held)]


def keep_options(
    options: argparse.Namespace, may_change: Sequence[str] = (), begin: Callable[[], None] = lambda: None
) -> None:
    """Write the options into the output folder, after `begin`; later calls only compare.

    Raises ValueError when the folder holds an experiment with other options, but for those that `may_change`.
    """
    made, free = options.output / "experiment.json", {"output", "debug", *may_change}
    wanted = {name: str(value) for name, value in vars(options).items() if name not in free}
    with alone(options.output):
        found = read_object(made) if made.exists() else wanted
        if found != wanted:
            old = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
            changed = ", ".join(f"{name} {found.get(name)} instead of {wanted.get(name)}" for name in old)
            raise ValueError(f"{options.output} holds this experiment with {changed}: choose another --output")
        if not made.exists():
            begin()
            with atomic_write(options.output) as part:
                write_json(part / made.name, wanted)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for this folder, then enter it."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(only_writer(folder))
            except ValueError:
                time.sleep(0.5)
                continue
            yield
            return


def with_interval(row: dict, name: str) -> str:
    """`62.54 (60.6-64.5)`: a figure and its 95% interval."""
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} ({low:.1f}-{high:.1f})"


def at_own_threshold(metrics: dict) -> dict:
    """The figures at the threshold of the held-out part; always answering where all questions have an answer."""
    return metrics if "NoAns_exact" in metrics else metrics["always_answer"]


def silence(metrics: dict) -> str:
    """The line that every figure on dev is to be held against, in words."""
    return f'always "" has F1 {metrics["always_empty"]["f1"]:.2f} on dev'


def judged_by(metrics: dict) -> str:
    """What `held_f1` is, in words."""
    if "NoAns_exact" not in metrics:
        return "the F1 when always answering"
    return "the cross-fitted F1" if "crossfit" in metrics else "the F1 at the threshold tuned on them"


def held_f1(metrics: dict) -> float:
    """The F1 to choose by: on held-out articles, the one to quote."""
    return squad.headline(metrics)["f1"]


def has_answer_f1(metrics: dict) -> float:
    """HasAns F1, always answering: how well the model finds spans."""
    return metrics["always_answer"].get("HasAns_f1", float("nan"))


def spread(values: Sequence[float]) -> str:
    """`20.15 (19.8 - 20.6)`: mean, lowest and highest, of several seeds say; the only one where there is one."""
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} - {max(values):.1f})"


def bars(axes, rows: dict[str, Sequence[float]], label: str) -> None:
    """A bar as long as the mean of each row's values, and a dot for each of them."""
    for at, values in enumerate(rows.values()):
        axes.barh(at, np.mean(values), color="tab:blue", alpha=0.6)
        axes.plot(values, [at] * len(values), "k.", markersize=5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlabel=f"{label}, a dot for each seed")
    axes.invert_yaxis()


def report(
    folder: Path, title: str, rows: Sequence[dict], columns: dict[str, Callable[[dict], str]], notes: str
) -> None:
    """Write results.md and results.json, and print the table."""
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    lines += [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in rows]
    text = f"## {title}\n{notes}\n\n" + "\n".join(lines) + "\n"
    with atomic_write(folder) as part:
        (part / "results.md").write_text(text, encoding="utf-8")
        write_json(part / "results.json", list(rows))
    print(f"{text}\n{folder}/results.md, results.json")


def draw(path: Path, plot: Callable[..., None], panels: int = 1, size: tuple[float, float] = (7.0, 4.5)) -> None:
    """Save what plot(axes, ...) draws, with matplotlib; when it is not installed, print how to install it."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    plot(*axes[0])
    with atomic_write(path.parent) as part:
        drawn.savefig(part / path.name, dpi=110)
    pyplot.close(drawn)
    print(path)
