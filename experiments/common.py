"""What experiments share: a split of the train file by article, runs of train.py with their cost, tables and plots."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import minibert
import squad

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"


def positive(text: str) -> int:
    """For argparse: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"is {text}, expected a whole number of at least 1")
    return int(text)


def parser(name: str, description: str, runs: bool = True) -> argparse.ArgumentParser:
    """A parser with what experiments on a part of the train file take; runs: that they are made of train.py's runs."""
    made = minibert.Parser(prog=f"python -m experiments {name}", description=description)
    add = made.add_argument
    add(
        "--train",
        metavar="FILE",
        default=str(DATA / "train.json.gz"),
        help="SQuAD file to train on (data/train.json.gz)",
    )
    add("--questions", metavar="N", type=positive, default=4000, help="train questions, drawn at random (4000)")
    add("--output", metavar="DIR", type=Path, default=Path("runs") / "experiments" / name, help="folder for everything")
    add("--debug", action="store_true", help="show the traceback of an error")
    if runs:
        add("--held", metavar="N", type=positive, default=400, help="questions of held-out train articles (400)")
        add("--dev", metavar="FILE", default=str(DATA / "dev.json.gz"), help="scored once a row (data/dev.json.gz)")
        add("flags", nargs="*", metavar="-- FLAGS", help="after --: flags of train.py for all runs")
    else:
        made.set_defaults(held=1)  # nothing is judged by them
    return made


def split_by_article(
    examples: Sequence[squad.Example], questions: int, held: int, seed: int = 0
) -> tuple[list[squad.Example], list[squad.Example]]:
    """Two lists of examples that share no article: at most `questions` to train on, at most `held` to choose by.

    Articles are held out in random order until they have twice as many questions as are wanted, so that those drawn
    come from several. Raises ValueError when one of the two would be empty.
    """
    rng = np.random.default_rng(seed)
    by_title = defaultdict(list)
    for example in examples:
        by_title[example.title].append(example)
    titles = [str(title) for title in rng.permutation(sorted(by_title))]
    kept: list[squad.Example] = []
    while titles[1:] and len(kept) < 2 * held:
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
    """Examples -> a SQuAD file; those of one context and article together."""
    articles: dict = defaultdict(lambda: defaultdict(list))
    for e in examples:
        answers = [{"text": a.text, "answer_start": a.start} for a in e.answers]
        qa = {"id": e.id, "question": e.question, "answers": answers, "is_impossible": e.is_impossible}
        articles[e.title][e.context].append(qa)
    data = [
        {"title": title, "paragraphs": [{"context": context, "qas": qas} for context, qas in paragraphs.items()]}
        for title, paragraphs in articles.items()
    ]
    with minibert.whole_files(path.parent) as part:
        (part / path.name).write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")


def free_flags(made: Sequence[str], given: Sequence[str]) -> list[str]:
    """Those given after --, for all runs. Raises ValueError when the experiment makes one of them itself."""
    own = {word for word in made if word.startswith("--")} | {"--output", "--resume", "--evaluate"}
    taken = [word for word in given if word.split("=")[0] in own]
    if taken:
        raise ValueError(f"{', '.join(taken)} after --: this experiment sets that itself, see its --help")
    return list(given)


def prepare_data(options: argparse.Namespace, may_change: Sequence[str] = ()) -> list[str]:
    """Write the two parts of the train file into the output folder; returns the flags that make train.py use them.

    Args: may_change: options that say what more to try and not what a run is: all others must stay as they were.
    Raises ValueError when the folder holds an experiment with other ones.
    """
    fit, held, made = (options.output / name for name in ("fit.json", "held.json", "experiment.json"))
    free = {"output", "debug", *may_change}
    wanted = {name: str(value) for name, value in vars(options).items() if name not in free}
    with alone(options.output):
        found = minibert.read_json(made) if made.exists() else wanted
        if found != wanted:
            old = [name for name in wanted if found.get(name) != wanted[name]]
            changed = ", ".join(f"{name} {found.get(name)} instead of {wanted[name]}" for name in old)
            raise ValueError(f"{options.output} holds this experiment with {changed}: choose another --output")
        if not made.exists():
            parts = split_by_article(squad.read_examples(options.train), options.questions, options.held)
            for examples, path in zip(parts, (fit, held), strict=True):
                write_squad(examples, path)
            with minibert.whole_files(options.output) as part:
                minibert.write_json(part / made.name, wanted)
    return ["--train", str(fit), "--dev", str(held)]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is in here with this folder."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(minibert.only_writer(folder))
            except ValueError:
                time.sleep(0.5)
                continue
            yield
            return


def trained(folder: Path, flags: Sequence[str]) -> dict:
    """Train with train.py in a process of its own, or go on, or only read what an earlier call found.

    Returns seconds and peak_memory (bytes) of its parts, all but those that were killed, and `metrics`, those on the
    held-out part. Raises ValueError when train.py fails.
    """
    path = folder / "cost.json"
    cost = minibert.read_json(path) if path.exists() else {"seconds": 0.0, "peak_memory": 0, "done": False}
    if not cost["done"]:
        begun = (folder / "config.json").exists()
        arguments = ["--resume", str(folder)] if begun else [*flags, "--output", str(folder)]
        end = timed(["train.py", *arguments], words_of(folder))
        seconds, memory = cost["seconds"] + end.seconds, max(cost["peak_memory"], end.peak_memory)
        cost = {"seconds": seconds, "peak_memory": memory, "done": end.status == 0}
        if folder.exists() and end.status != 2:  # 2: another process may be writing there
            with minibert.whole_files(folder) as part:
                minibert.write_json(part / path.name, cost)
        check(end, folder)
    return {**cost, "metrics": minibert.read_json(folder / "metrics.json")}


def scored(folder: Path, dev: str) -> dict:
    """The figures of a trained run on the dev file, at the run's own threshold; scored once, then read."""
    path = folder / "evaluation" / "metrics.json"
    if not path.exists():
        check(timed(["train.py", "--evaluate", str(folder), "--dev", dev], words_of(folder)), folder)
    return minibert.read_json(path)


class End(NamedTuple):
    """How a script ended, after how many seconds, the most bytes it ever held, and whether Ctrl-C came meanwhile."""

    status: int
    seconds: float
    peak_memory: int
    interrupted: bool


def timed(command: list[str], output: Path) -> End:
    """Run a Python script of ours to its end; its words go to a file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with output.open("ab") as file:
        arguments = [sys.executable, str(ROOT / command[0]), *command[1:]]
        process = os.posix_spawn(
            sys.executable, arguments, os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, file.fileno(), 2)],
        )  # fmt: skip
    interrupted = False
    try:
        _, status, usage = os.wait4(process, 0)
    except KeyboardInterrupt:  # the script has had it too and writes its checkpoint
        interrupted = True
        _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - began
    return End(os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss * 1024, interrupted)


def words_of(folder: Path) -> Path:
    """Where what train.py said about the run in `folder` is kept."""
    return folder.with_name(f"{folder.name}.txt")


def check(end: End, folder: Path) -> None:
    """Raises KeyboardInterrupt when train.py was to be stopped, ValueError when it did not end well."""
    if end.interrupted or end.status == 128 + signal.SIGINT:
        raise KeyboardInterrupt
    if end.status:
        raise ValueError(last_words(end.status, folder))


def last_words(status: int, folder: Path) -> str:
    """What a train.py that did not end well said about the run in `folder`."""
    output = words_of(folder)
    last = output.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().splitlines()[-1:]
    return f"train.py ended with status {status}: {''.join(last)[-500:]}; all it said is in {output}"


def parameters(folder: Path) -> dict[str, float]:
    """Trained parameters and their share, as train.py's opening table says."""
    for line in words_of(folder).read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["trains"]:
            return {"parameters": int(words[1].replace(",", "")), "share": float(words[2].strip("(%):")) / 100}
    raise ValueError(f"{words_of(folder)}: train.py's table is not there")


def with_interval(metrics: dict, name: str) -> str:
    """`62.54 (60.6-64.5)`: a figure and its 95% interval; of always answering where all questions have an answer."""
    row = metrics if "NoAns_exact" in metrics else metrics["always_answer"]
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.2f} ({low:.1f}-{high:.1f})"


def judged_by(metrics: dict) -> str:
    """What `held_f1` is, in words."""
    if "NoAns_exact" not in metrics:
        return "the F1 when always answering"
    return "the cross-fitted F1" if "crossfit" in metrics else "the F1 at the threshold tuned on them"


def held_f1(metrics: dict) -> float:
    """What is chosen by: on held-out articles, the F1 to quote."""
    return squad.headline(metrics)["f1"]


def has_answer_f1(metrics: dict) -> float:
    """F1 on the questions with an answer when the model must always answer: how well it finds spans."""
    return metrics["always_answer"].get("HasAns_f1", float("nan"))


def report(
    folder: Path, title: str, rows: Sequence[dict], columns: dict[str, Callable[[dict], str]], notes: str
) -> None:
    """Write results.md and results.json, and print the table."""
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    lines += [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in rows]
    text = f"## {title}\n{notes}\n\n" + "\n".join(lines) + "\n"
    with minibert.whole_files(folder) as part:
        (part / "results.md").write_text(text, encoding="utf-8")
        minibert.write_json(part / "results.json", list(rows))
    print(f"{text}\n{folder}/results.md, results.json")


def draw(path: Path, plot: Callable[..., None], panels: int = 1, size: tuple[float, float] = (7.0, 4.5)) -> None:
    """Save what plot(axes, ...) draws, with matplotlib; where it is not installed, say so."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: pip install matplotlib", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    plot(*axes[0])
    with minibert.whole_files(path.parent) as part:
        drawn.savefig(part / path.name, dpi=110)
    pyplot.close(drawn)
    print(path)
