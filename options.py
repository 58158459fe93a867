"""train.py's options: every knob with its default, and which of them a resumed run may change."""

import dataclasses
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

import minibert
from minibert import option

# What a step number, the saved weights or the windows mean hangs on these; model and data are compared themselves.
BINDING = (
    "lora_rank", "lora_alpha", "lora_targets", "batch_size", "accumulate", "seed", "max_train_examples", "skip_bad",
    "answerable_only", "max_length", "window_overlap", "max_question_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Every knob: flags and --help are made from this, and a run keeps it in config.json."""

    # data
    train: str = option("excerpt", "SQuAD file to train on, or squad_v2 (the official one), or excerpt (in data/)")
    dev: str = option("excerpt", "SQuAD file to evaluate on; the same names")
    max_train_examples: int = option(0, "train on the first N questions only; 0: all", least=0)
    skip_bad: bool = option(False, "leave out malformed questions instead of stopping at the first")
    answerable_only: bool = option(False, "leave out the questions without an answer, of train and dev")
    # model
    model: str = option("minilm", "minilm, a folder, or a hub id such as google-bert/bert-base-uncased")
    revision: str = option("", "hub commit or tag of the model")
    dropout: float = option(0.0, "dropout inside BERT; costs time on a CPU", least=0, below=1)
    # LoRA
    lora_rank: int = option(8, "r, the rank of the updates; 0 trains every weight instead", least=0)
    lora_alpha: float = option(16.0, "the updates are scaled by alpha / r", above=0)
    lora_dropout: float = option(0.0, "dropout on the inputs of the updates", least=0, below=1)
    lora_targets: str = option("all", "attention (query, value), all (six linears a layer), or names with commas")
    # windows
    max_length: int = option(384, "tokens in a window: question, context and special ones", least=1)
    window_overlap: int = option(128, "context tokens that neighbouring windows share", least=0)
    max_question_tokens: int = option(64, "a longer question is cut", least=1)
    # optimisation
    epochs: int = option(0, "passes over the training windows; 0: 3, but 2 over the excerpt, for 5 minutes", least=0)
    batch_size: int = option(16, "windows per forward pass", least=1)
    accumulate: int = option(1, "forward passes per optimizer step, in all processes together", least=1)
    learning_rate: float = option(1e-3, "AdamW's at the end of warm-up; about 1e-4 for --lora-rank 0", above=0)
    weight_decay: float = option(0.01, "AdamW's, on matrices only", least=0)
    warmup: float = option(0.1, "share of the steps over which the rate rises; then it falls to 0", least=0, below=1)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", above=0)
    # decoding
    max_answer_tokens: int = option(30, "longest answer looked for", least=1, most=10_000)
    n_best: int = option(20, "answers kept per question", least=1, most=1000)
    # scoring
    scoring: str = option("official", "how answers are compared", choices=("official", "multilingual"))
    language: str = option("", "ISO code of the answers' language such as ur: whose articles multilingual leaves out")
    # the run
    output: str = option("", "folder for everything the run writes; default: runs/<date-time>")
    eval_every: int = option(0, "evaluate every N steps too, not only after each epoch", least=0)
    track: str = option("none", "send log.jsonl's figures there too", choices=("none", "tensorboard", "wandb"))
    log_every: int = option(100, "steps per line in log.jsonl", least=1)
    checkpoint_every: str = option("10m", "write one every N steps, or Nm for minutes; evaluations and signals do too")
    keep: int = option(2, "checkpoints kept, the newest ones", least=1)
    seed: int = option(0, "of every random choice; the same seed gives the same losses on a CPU", least=0, below=2**63)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = option("auto", "auto: bf16 where native, else fp32", choices=("auto", "fp32", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile the model: a minute or two before the first step; for GPUs")
    debug: bool = option(False, "show the traceback of an error")

    def __post_init__(self):
        minibert.check_values(self)
        if not re.fullmatch(r"0*[1-9][0-9]{0,8}m?", self.checkpoint_every):
            raise ValueError(f"--checkpoint-every is {self.checkpoint_every}, expected steps (500) or minutes (10m)")
        if not re.fullmatch(r"([a-z]{2,3})?", self.language):
            raise ValueError(f"--language is {self.language[:60]!r}, expected an ISO code such as ur, or none")

    @property
    def checkpoint_steps(self) -> int:
        """Steps between checkpoints; 0 where minutes decide."""
        return 0 if self.checkpoint_every.endswith("m") else int(self.checkpoint_every)

    @property
    def checkpoint_seconds(self) -> float:
        """Seconds between checkpoints; infinite where steps decide."""
        return 60.0 * int(self.checkpoint_every[:-1]) if self.checkpoint_every.endswith("m") else math.inf


@dataclass(frozen=True)
class Command:
    """What the command line asks for: train, or one of the verbs on the run in a folder."""

    options: Options
    resume: bool = False
    evaluate: Path | None = None
    selfcheck: bool = False
    suggest_max_length: bool = False


def parse_options(argv: list[str] | None, description: str) -> Command:
    """Command line -> what to do. Raises ValueError for what cannot be.

    --resume and --evaluate take a run's own options from its config.json; flags given beside them win.
    """
    parser = minibert.Parser(prog="train.py", description=description)
    verbs = parser.add_mutually_exclusive_group()
    verbs.add_argument("--resume", metavar="RUN", help="go on with the interrupted run in this folder")
    verbs.add_argument("--evaluate", metavar="RUN", help="evaluate the trained run in this folder, train nothing")
    verbs.add_argument("--selfcheck", action="store_true", help="prove on small stored examples that it computes right")
    verbs.add_argument("--suggest-max-length", action="store_true", help="show how long the data is and what fits it")
    minibert.add_flags(parser, Options)
    first = parser.parse_args(argv)
    run, saved = first.evaluate if first.resume is None else first.resume, {}
    if run == "":
        raise ValueError("--resume and --evaluate take a run's folder, found an empty name")
    if run:
        saved = minibert.saved_options(Path(run) / "config.json", Options)
        # an evaluation does not overwrite the training's own figures
        output = run if first.resume else f"{run}/evaluation"
        parser.set_defaults(**{**saved, "output": output})
    values = vars(parser.parse_args(argv))
    for verb in ("resume", "evaluate", "selfcheck", "suggest_max_length"):
        del values[verb]
    values["epochs"] = values["epochs"] or (2 if values["train"] == "excerpt" else 3)
    values["output"] = values["output"] or time.strftime("runs/%Y%m%d-%H%M%S")
    options = Options(**values)
    if first.resume and options.output != first.resume:
        raise ValueError(f"--output is {options.output}, but a run goes on in its own folder, {first.resume}")
    if first.resume:
        check_binding(saved, options)
    evaluate = Path(first.evaluate) if first.evaluate else None
    return Command(options, bool(first.resume), evaluate, first.selfcheck, first.suggest_max_length)


def changes(saved: dict, options: Options) -> list[str]:
    """Which options are no longer what a run was started with, each as `--name old -> new`; its folder may move."""
    now = dataclasses.asdict(options)
    return [
        f"--{name.replace('_', '-')} {old} -> {now[name]}"
        for name, old in saved.items()
        if now[name] != old and name not in ("output", "debug")
    ]


def check_binding(saved: dict, options: Options) -> None:
    """Raises ValueError when an option of BINDING was changed: the checkpoint would mean nothing."""
    binding = [f"--{name.replace('_', '-')} " for name in BINDING]
    refused = [change for change in changes(saved, options) if change.startswith(tuple(binding))]
    if refused:
        raise ValueError(f"{', '.join(refused)}: cannot change in a run that goes on; start another --output for that")
