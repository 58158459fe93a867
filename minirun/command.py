"""The command line of a training script: its options, and the verbs --resume and --evaluate on an earlier run."""

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minihub import only_writer, read_object
from minirun.flags import Parser, add_flags, check_values, flag_name, option


@dataclass(frozen=True)
class RunOptions:
    """The options about the run itself, which `Record` and the choice of device and precision need.

    A training script's options are a dataclass on top of this one. A resumed run must not change those marked `fixed`:
    its checkpoint would no longer mean the same.
    """

    output: str = option("", "folder for everything the run writes; default: runs/<date-time>")
    eval_every: int = option(0, "evaluate every N steps too, not only after each epoch", least=0)
    track: str = option("none", "send log.jsonl's figures there too", choices=("none", "tensorboard", "wandb"))
    log_every: int = option(100, "steps per line in log.jsonl", least=1)
    checkpoint_every: str = option("10m", "write one every N steps, or Nm for minutes; evaluations and signals do too",
                                   pattern="0*[1-9][0-9]{0,8}m?", expected="steps (500) or minutes (10m)")  # fmt: skip
    keep: int = option(2, "checkpoints kept, the newest ones", least=1)
    seed: int = option(0, "of all random choices; equal seeds, equal losses on a CPU", least=0, below=2**63, fixed=True)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = option(
        "auto", "auto: bf16 where native, fp16 on older GPUs, else fp32", choices=("auto", "fp32", "bf16", "fp16")
    )

    def __post_init__(self):
        check_values(self)


@dataclass(frozen=True)
class Command:
    """What the user asked for: train a new run, resume one, or evaluate the run in `evaluate`."""

    options: typing.Any  # an instance of the script's options class
    resume: bool = False
    evaluate: Path | None = None


def parse_command(argv: list[str] | None, options: type, prog: str, description: str, scored: Sequence[str]) -> Command:
    """Parse a command line whose flags are the fields of the dataclass `options`; one field must be `output`.

    --resume RUN and --evaluate RUN take their options from the run's config.json; flags given beside them override it.
    An evaluation writes to RUN/evaluation unless --output says otherwise, so that the run's own figures stay.
    Args: scored: the options that mean something to an evaluation, beside the folder, the device and the precision.
    Raises ValueError when a value is not allowed, a resumed run changes an option marked as fixed, an evaluation one
    that is not among the `scored`, or another run is in the folder to write into.
    """
    parser = Parser(prog=prog, description=description)
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument("--resume", metavar="RUN", help="continue the interrupted run in this folder")
    verbs.add_argument("--evaluate", metavar="RUN", help="evaluate the trained run in this folder, train nothing")
    add_flags(parser, options)
    first = parser.parse_args(argv)
    run = first.evaluate if first.resume is None else first.resume
    saved: dict = {}
    if run == "":
        raise ValueError("--resume and --evaluate take a run's folder, found an empty name")
    if run is not None:
        saved = saved_options(Path(run) / "config.json", options)
        parser.set_defaults(**{**saved, "output": run if first.resume else f"{run}/evaluation"})
        parser.set_defaults(**_defaults_again(options, saved, vars(parser.parse_args(argv))))
    values = vars(parser.parse_args(argv))
    for name in ("resume", "evaluate", "debug"):
        del values[name]
    made = options(**values)
    if first.resume:
        _check_resume(run, saved, made)
    if first.evaluate:
        _check_evaluation(saved, made, scored)
    command = Command(made, bool(first.resume), Path(first.evaluate) if first.evaluate else None)
    if made.output:
        try:
            check_free(Path(made.output), command)
        except ValueError:
            with only_writer(made.output):  # while another process is writing there, that is what it says instead
                raise
    return command


def check_free(folder: Path, command: Command) -> None:
    """Raise ValueError when a run is in the folder that this command would write into, but for the one it resumes.

    An evaluation may take the place of another one, not of a run or a model. One that was killed while its files were
    renamed has left config.json alone.
    """
    alone = {path.name for path in folder.glob("[!.]*")} == {"config.json"}
    evaluation = alone or ((folder / "metrics.json").exists() and not _is_run(folder))
    taken = (folder / "config.json").exists() and not (command.evaluate and evaluation)
    if taken and not command.resume:
        raise ValueError(f"{folder} already holds a run or a model: --resume a run, or choose another --output")


def _is_run(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in ("log.jsonl", "checkpoint"))


def saved_options(path: Path, options: type) -> dict:
    """Read the fields of the dataclass `options` from a run's config.json.

    Raises ValueError when the file is missing or unreadable, or has other fields or types than `options`.
    """
    try:
        values = read_object(path)
    except ValueError as error:
        raise ValueError(f"{error}; expected the options of a run, give the --output folder of one") from error
    types = typing.get_type_hints(options)
    if unknown := values.keys() - {field.name for field in dataclasses.fields(options)}:
        raise ValueError(f"{path}: not among the options of this version: {', '.join(sorted(unknown))[:200]}")
    for name, value in values.items():
        if type(value) is not types[name] and not (types[name] is float and type(value) is int):
            raise ValueError(f"{path}: {name} is {str(value)[:60]!r}, expected {types[name].__name__}")
    return values


def changed_options(saved: dict, now: dict) -> dict[str, str]:
    """Name -> `--name old -> new` of every option that differs; the folder's own name may."""
    return {
        name: f"{flag_name(name)} {old} -> {now[name]}"
        for name, old in saved.items()
        if now[name] != old and name != "output"
    }


def _defaults_again(options: type, saved: dict, now: dict) -> dict:
    """The defaults of options whose saved value says nothing any more: the option that they are `of` has changed."""
    return {
        field.name: field.default
        for field in dataclasses.fields(options)
        if (other := field.metadata.get("of")) in saved and now[other] != saved[other]
    }


def _check_evaluation(saved: dict, options, scored: Sequence[str]) -> None:
    changes = changed_options(saved, dataclasses.asdict(options))
    if idle := [change for name, change in changes.items() if name not in (*scored, "device", "precision")]:
        raise ValueError(f"{', '.join(idle)}: means nothing to --evaluate, which trains nothing; leave it out")


def _check_resume(run: str, saved: dict, options) -> None:
    if (Path(run) / "metrics.json").exists() and not _is_run(Path(run)):
        raise ValueError(f"{run} holds an evaluation, expected a run: an evaluation has nothing to resume")
    if options.output != run:
        raise ValueError(f"--output is {options.output}, but a resumed run continues in its own folder, {run}")
    fixed = {field.name for field in dataclasses.fields(options) if field.metadata.get("fixed")}
    changes = changed_options(saved, dataclasses.asdict(options))
    if refused := [change for name, change in changes.items() if name in fixed]:
        raise ValueError(f"{', '.join(refused)}: cannot change in a resumed run; start another --output for that")
