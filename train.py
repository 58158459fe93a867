"""Fine-tune BERT with LoRA to answer questions about a text (SQuAD 2.0).

    python train.py --lora-rank 8                 the default run: MiniLM on the questions in data/
    python train.py --evaluate runs/NAME          score a trained run again, on --dev if given
    python train.py --resume runs/NAME            go on after an interruption

Read it top-down: options, then main() in the order in which things happen.
"""

import dataclasses
import json
import logging
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from tqdm import tqdm

import lora
import minibert
import squad
from minibert import option

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Options:
    """Every knob: flags and --help are made from this, and a run keeps it in config.json."""

    # data
    train: str = option("excerpt", "SQuAD file to train on, or squad_v2 (the official one), or excerpt (in data/)")
    dev: str = option("excerpt", "SQuAD file to evaluate on; the same names")
    max_train_examples: int = option(0, "train on the first N questions only; 0: all")
    skip_bad: bool = option(False, "leave out malformed questions instead of stopping at the first")
    # model
    model: str = option("minilm", "minilm, a folder, or a hub id such as google-bert/bert-base-uncased")
    revision: str = option("", "hub commit or tag of the model")
    dropout: float = option(0.0, "dropout inside BERT; on a CPU its random numbers take most of the time")
    # LoRA
    lora_rank: int = option(8, "r, the rank of the updates; 0 trains every weight instead")
    lora_alpha: float = option(16.0, "the updates are scaled by alpha / r")
    lora_dropout: float = option(0.0, "dropout on the inputs of the updates")
    lora_targets: str = option("all", "attention (query, value), all (six linears a layer), or names with commas")
    # windows
    max_length: int = option(384, "tokens in a window: question, context and three special ones")
    window_overlap: int = option(128, "context tokens that neighbouring windows share")
    max_question_tokens: int = option(64, "a longer question is cut")
    # optimisation
    epochs: int = option(0, "passes over the training windows; 0: 3, but 2 over the excerpt, for a run of 5 minutes")
    batch_size: int = option(16, "windows per forward pass")
    accumulate: int = option(1, "forward passes per optimizer step")
    learning_rate: float = option(1e-3, "AdamW's at the end of warm-up; about 1e-4 for --lora-rank 0")
    weight_decay: float = option(0.01, "AdamW's, on matrices only")
    warmup: float = option(0.1, "share of the steps over which the learning rate rises; then it falls to 0")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm")
    # decoding
    max_answer_tokens: int = option(30, "longest answer looked for")
    n_best: int = option(20, "answers kept per question")
    # the run
    output: str = option("", "folder for everything the run writes; default: runs/<date-time>")
    eval_every: int = option(0, "evaluate every N steps too, not only after each epoch")
    log_every: int = option(100, "steps per line in log.jsonl")
    seed: int = option(0, "of every random choice; the same seed gives the same losses on a CPU")
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = option("auto", "auto: bf16 where native, else fp32", choices=("auto", "fp32", "bf16", "fp16"))
    debug: bool = option(False, "show the traceback of an error")

    def __post_init__(self):
        sizes = ("batch_size", "accumulate", "max_answer_tokens", "n_best", "log_every", "max_length",
                 "max_question_tokens")  # fmt: skip
        counts = ("epochs", "max_train_examples", "lora_rank", "eval_every", "window_overlap", "seed", "weight_decay")
        rules = {
            "at least 1": (lambda x: x >= 1, sizes),
            "at least 0": (lambda x: x >= 0, counts),
            "a number above 0": (lambda x: 0 < x < math.inf, ("learning_rate", "max_grad_norm", "lora_alpha")),
            "at least 0 and below 1": (lambda x: 0 <= x < 1, ("dropout", "lora_dropout", "warmup")),
        }
        for expected, (holds, names) in rules.items():
            for name in names:
                if not holds(value := getattr(self, name)):
                    raise ValueError(f"--{name.replace('_', '-')} is {value}, expected {expected}")


def main(argv: list[str] | None = None) -> int:
    """Parse, prepare, train, evaluate, save; returns the exit status."""
    options, resume, evaluated_run = parse_options(argv)
    folder = Path(options.output)

    device = minibert.choose_device(options.device)
    dtype = minibert.choose_precision(options.precision, device)
    minibert.keep_freed_memory()
    torch.manual_seed(options.seed)

    tokenizer = minibert.load_tokenizer(options.model, options.revision or None)
    dev = load_data(options, "dev", tokenizer)
    train = None if evaluated_run else load_data(options, "train", tokenizer)

    model = load_trained(options, evaluated_run) if evaluated_run else prepare_model(options)
    minibert.check_fit(tokenizer, model.config, options.max_length)
    minibert.store_frozen_as(dtype, model.to(device))
    run = Run(options, folder, model, device, dtype, dev, tokenizer)

    if not evaluated_run:
        if (folder / "config.json").exists() and not resume:
            raise ValueError(f"{folder} already holds a run: --resume it, or choose another --output")
        print(startup_table(run, train))
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:  # a resumed run's options replace the old ones only once its checkpoint has been found to fit
        write_json(folder / "config.json", dataclasses.asdict(options))
    if evaluated_run:
        metrics = run.evaluate(read_json(trained_folder(options, evaluated_run) / "qa.json"))
    else:
        stopped_by = train_loop(run, train, resume)
        if stopped_by:
            print(f"stopped; go on with: python train.py --resume {folder}", file=sys.stderr)
            return 128 + stopped_by
        metrics = read_json(folder / "metrics.json")
    print(f"\n{squad.results_table(metrics)}\n\neverything is in {folder}")
    print(f"ask it: python answer.py --model {evaluated_run or folder} --serve")
    return 0


def parse_options(argv: list[str] | None) -> tuple[Options, bool, Path | None]:
    """Command line -> options, whether to resume, the run to evaluate if there is nothing to train.

    --resume and --evaluate take a run's own options from its config.json; flags given beside them win.
    """
    parser = minibert.Parser(description=__doc__.rsplit("\n\n", 1)[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", metavar="RUN", help="go on with the interrupted run in this folder")
    group.add_argument("--evaluate", metavar="RUN", help="evaluate the trained run in this folder, train nothing")
    minibert.add_flags(parser, Options)
    first = parser.parse_args(argv)
    run = first.resume or first.evaluate
    if run:
        saved = Path(run) / "config.json"
        try:
            defaults = read_json(saved)
            if not isinstance(defaults, dict):
                raise ValueError(f"a JSON {type(defaults).__name__}")
        except (OSError, ValueError) as error:
            raise ValueError(f"{saved}: not a run's options ({error}), expected the --output of a run") from error
        if unknown := defaults.keys() - {f.name for f in dataclasses.fields(Options)}:
            raise ValueError(f"{saved}: {', '.join(sorted(unknown))} are no options of this version")
        # an evaluation does not overwrite the training's own figures
        parser.set_defaults(**{**defaults, "output": run if first.resume else f"{run}/evaluation"})
    values = vars(parser.parse_args(argv))
    del values["resume"], values["evaluate"]
    values["epochs"] = values["epochs"] or (2 if values["train"] == "excerpt" else 3)
    values["output"] = values["output"] or time.strftime("runs/%Y%m%d-%H%M%S")
    return Options(**values), bool(first.resume), Path(first.evaluate) if first.evaluate else None


@dataclass(frozen=True)
class Data:
    examples: list[squad.Example]
    windows: squad.Windows


def load_data(options: Options, split: str, tokenizer) -> Data:
    """Read one of the two files and cut it into windows."""
    path = getattr(options, split)
    if path == "squad_v2":
        path = squad.find_squad_v2(split)
    elif path == "excerpt":
        path = DATA / f"{split}.json.gz"
    bad: list[str] = []
    examples = squad.read_examples(path, bad.append if options.skip_bad else None)
    if bad:
        print(f"{path}: left out {len(bad)} malformed questions, the first: {bad[0]}", file=sys.stderr)
    if split == "train" and options.max_train_examples:
        examples = examples[: options.max_train_examples]
    if not examples:
        raise squad.DataError(f"{path}: holds no usable question")
    sizes = (options.max_length, options.window_overlap, options.max_question_tokens)
    progress = progress_bar(f"tokenise {split}", "chunk")
    if len(examples) < 20_000:  # two seconds: not worth a file
        return Data(examples, squad.make_windows(examples, tokenizer, *sizes, progress))
    return Data(examples, squad.cached_windows(path, examples, tokenizer, sizes, progress))


def prepare_model(options: Options) -> nn.Module:
    """The pretrained model, with adapters unless the rank is 0, and the dropout asked for."""
    model = minibert.load_pretrained(options.model, options.revision or None, options.dropout)
    if options.lora_rank:
        names = [name.strip() for name in options.lora_targets.split(",")]
        targets = names[0] if len(names) == 1 else names
        lora.add_lora(model, options.lora_rank, options.lora_alpha, options.lora_dropout, targets)
    return model


def load_trained(options: Options, folder: Path) -> nn.Module:
    """The model that a run saved: base and adapter, or all weights."""
    if not options.lora_rank:
        return minibert.load_pretrained(trained_folder(options, folder))
    model = minibert.load_pretrained(options.model, options.revision or None)
    lora.load_adapter(model, trained_folder(options, folder), minibert.checkpoint_names(model.config))
    return model


def startup_table(run: "Run", train: Data) -> str:
    """What is about to happen, before it takes any time."""
    options, model = run.options, run.model
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    adapted = sorted({name.rpartition(".")[2] for name, _ in lora.lora_layers(model)})
    lengths = train.windows.lengths
    waste = squad.padding_waste(train.windows, squad.training_batches(lengths, options.batch_size, options.seed, 0))
    unanswerable = np.mean([e.is_impossible for e in train.examples])
    rows = {
        "model": f"{options.model}, {total:,} parameters",
        "trains": f"{trained:,} ({trained / total:.2%}): "
        + (f"QA head, LoRA rank {options.lora_rank} on {', '.join(adapted)}" if adapted else "everything"),
        "frozen": f"{total - trained:,}",
        "train": f"{len(train.examples):,} questions ({unanswerable:.0%} unanswerable), {len(lengths):,} windows",
        "dev": f"{len(run.dev.examples):,} questions, {len(run.dev.windows):,} windows",
        "batches": f"{options.batch_size} windows x {options.accumulate}, {waste:.1%} padding",
        "compute": f"{run.device}, {str(run.dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads",
        "output": str(run.folder),
    }
    return "\n".join(f"{name:>8}  {value}" for name, value in rows.items())


@dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last."""

    options: Options
    folder: Path
    model: nn.Module
    device: torch.device
    dtype: torch.dtype
    dev: Data
    tokenizer: Tokenizer

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def evaluate(self, judged_by: dict | None = None) -> dict:
        """Predict dev; write the predictions and figures; return the figures.

        judged_by: the null_threshold and temperature to use; without it, the best on dev.
        """
        self.model.eval()
        options, dev = self.options, self.dev
        with self.autocast():
            predictions = squad.predict(
                self.model, dev.examples, dev.windows, self.device,
                options.max_answer_tokens, options.n_best, progress_bar("evaluate", "batch"),
            )  # fmt: skip
        self.model.train()
        given = judged_by or {}
        metrics = squad.evaluate(dev.examples, predictions, given.get("null_threshold"), given.get("temperature"))
        squad.write_results(self.folder, predictions, metrics)
        return metrics

    def save(self, metrics: dict) -> None:
        """Write what was trained, and beside it what it takes to use it."""
        options, to = self.options, trained_folder(self.options, self.folder)
        if options.lora_rank:
            names = minibert.checkpoint_names(self.model.config)
            lora.save_adapter(self.model, to, names, options.model, options.revision)
        else:
            minibert.save_pretrained(self.model, to)
            self.tokenizer.save(str(to / "tokenizer.json"))
        kept = ("max_length", "window_overlap", "max_question_tokens", "max_answer_tokens")
        tuned = {"null_threshold": metrics["threshold"], "temperature": metrics["calibration"]["temperature"]}
        write_json(to / "qa.json", tuned | {name: getattr(options, name) for name in kept})


def train_loop(run: Run, train: Data, resume: bool) -> int:
    """All steps, evaluations and saves. Returns 0, or the number of the signal that stopped it."""
    options, lengths = run.options, train.windows.lengths
    step_size = options.batch_size * options.accumulate
    per_epoch = len(squad.training_batches(lengths, step_size, options.seed, epoch=0))
    total = per_epoch * options.epochs
    optimizer = minibert.make_optimizer(run.model, options.weight_decay)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == torch.float16)
    checkpoint = run.folder / "checkpoint"
    start = minibert.load_checkpoint(checkpoint, run.model, optimizer, scaler)["step"] if resume else 0
    if resume:
        write_json(run.folder / "config.json", dataclasses.asdict(options))
    log = minibert.RunLog(run.folder / "log.jsonl", options.log_every)
    run.model.train()
    bar = tqdm(total=len(lengths) * options.epochs, initial=start * step_size, unit="q", desc="train")
    with minibert.stop_signals() as stopped_by, bar:
        for step in range(start, total):
            epoch, batch = divmod(step, per_epoch)
            if batch == 0 or step == start:
                batches = squad.training_batches(lengths, step_size, options.seed, epoch)
            learning_rate = options.learning_rate * minibert.schedule(step, total, options.warmup)
            loss, norm = training_step(run, train, batches[batch], optimizer, scaler, learning_rate)
            done = step + 1
            if not math.isfinite(loss):
                ids = ", ".join(train.examples[i].id for i in train.windows.example[batches[batch]])
                raise ValueError(f"step {done}: the loss is {loss} on the questions {ids}; try a lower --learning-rate")
            log.step(done, loss, len(batches[batch]), epoch=done / per_epoch, grad_norm=norm, lr=learning_rate)
            bar.set_postfix(loss=f"{log.loss:.3f}", lr=f"{learning_rate:.1e}", refresh=False)
            bar.update(len(batches[batch]))
            evaluates = done % per_epoch == 0 or (options.eval_every and done % options.eval_every == 0)
            if evaluates:
                metrics = run.evaluate()
                run.save(metrics)
                shown = metrics.get("crossfit", metrics)
                log.write(step=done, epoch=done / per_epoch, exact=shown["exact"], f1=shown["f1"])
                log.restart()
                bar.write(f"epoch {done / per_epoch:.2f}: dev EM {shown['exact']:.2f}, F1 {shown['f1']:.2f}")
            if evaluates or stopped_by:
                minibert.save_checkpoint(checkpoint, run.model, optimizer, scaler, {"step": done})
            if stopped_by and done < total:
                return stopped_by[0]
    return 0


def training_step(run: Run, train: Data, rows: np.ndarray, optimizer, scaler, learning_rate: float):
    """One optimizer step on the windows `rows`; returns the loss and the gradient's norm before clipping."""
    loss = 0.0
    # micro-batches of batch_size, each weighted by its share: the gradient is that of all rows at once
    for micro in np.array_split(rows, math.ceil(len(rows) / run.options.batch_size)):
        batch = squad.collate(train.windows, micro).to(run.device)
        with run.autocast():
            logits = run.model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
        part = squad.span_loss(*logits, batch.start_positions, batch.end_positions, batch.span_mask)
        part = part * (len(micro) / len(rows))
        scaler.scale(part).backward()
        loss += part.item()  # waits for the device
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    scaler.unscale_(optimizer)  # so that the true gradients are clipped, and once a step
    norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], run.options.max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss, float(norm)


def progress_bar(name: str, unit: str):
    """A wrapper for loops that shows a bar once they take more than two seconds."""
    return lambda items: tqdm(items, desc=name, unit=unit, delay=2, leave=False)


def trained_folder(options: Options, folder: Path) -> Path:
    return folder / ("adapter" if options.lora_rank else "model")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.getLogger("minibert").setLevel(logging.ERROR)  # the table says whether the head is new
    minibert.run_command(main)
