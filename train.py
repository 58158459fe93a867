"""Fine-tune BERT with LoRA to answer questions about a text (SQuAD 2.0).

    python train.py --lora-rank 8                 the default run: MiniLM on the questions in data/
    python train.py --evaluate runs/NAME          score a trained run again, on --dev if given
    python train.py --resume runs/NAME            go on after an interruption
    torchrun --nproc_per_node=2 train.py ...      the same with several processes: docs/scaling.md

Read it top-down: options, then main() in the order in which things happen.
"""

import contextlib
import dataclasses
import logging
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
    max_train_examples: int = option(0, "train on the first N questions only; 0: all", least=0)
    skip_bad: bool = option(False, "leave out malformed questions instead of stopping at the first")
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
    max_length: int = option(384, "tokens in a window: question, context and three special ones", least=1)
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
    max_answer_tokens: int = option(30, "longest answer looked for", least=1)
    n_best: int = option(20, "answers kept per question", least=1)
    # the run
    output: str = option("", "folder for everything the run writes; default: runs/<date-time>")
    eval_every: int = option(0, "evaluate every N steps too, not only after each epoch", least=0)
    log_every: int = option(100, "steps per line in log.jsonl", least=1)
    seed: int = option(0, "of every random choice; the same seed gives the same losses on a CPU", least=0)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = option("auto", "auto: bf16 where native, else fp32", choices=("auto", "fp32", "bf16", "fp16"))
    compile: bool = option(False, "torch.compile the model: a minute or two before the first step; for GPUs")
    debug: bool = option(False, "show the traceback of an error")

    def __post_init__(self):
        minibert.check_ranges(self)


def main(argv: list[str] | None = None) -> int:
    """Parse, prepare, train, evaluate, save; returns the exit status."""
    options, resume, evaluated_run = parse_options(argv)
    with minibert.join_processes(minibert.choose_device(options.device)) as (processes, device):
        return work(options, resume, evaluated_run, processes, device)


def work(options: "Options", resume: bool, evaluated_run: Path | None, processes, device: torch.device) -> int:
    """What each process does; only the first writes files and talks."""
    folder = Path(options.output)
    dtype = minibert.choose_precision(options.precision, device)
    minibert.keep_freed_memory()
    torch.manual_seed(options.seed)

    tokenizer = minibert.load_tokenizer(options.model, options.revision or None)
    dev = load_data(options, "dev", tokenizer)
    train = None if evaluated_run else load_data(options, "train", tokenizer)

    model = load_trained(options, evaluated_run) if evaluated_run else prepare_model(options)
    minibert.check_fit(tokenizer, model.config, options.max_length)
    minibert.store_frozen_as(dtype, model.to(device))
    if options.compile:
        model.compile(dynamic=True)
    run = Run(options, folder, model, device, dtype, dev, tokenizer, processes)

    if not evaluated_run and not resume and (folder / "config.json").exists():
        raise ValueError(f"{folder} already holds a run: --resume it, or choose another --output")
    processes.wait()  # until all have looked
    if processes.first:
        folder.mkdir(parents=True, exist_ok=True)
        if not evaluated_run:
            print(startup_table(run, train))
        if not resume:  # a resumed run's options replace the old ones only once its checkpoint has been found to fit
            minibert.write_json(folder / "config.json", dataclasses.asdict(options))
    if evaluated_run:
        run.evaluate(minibert.read_json(trained_folder(options, evaluated_run) / "qa.json"))
    elif stopped_by := train_loop(run, train, resume):
        if processes.first:
            print(f"stopped; go on with: python train.py --resume {folder}", file=sys.stderr)
        return 128 + stopped_by
    if processes.first:
        print(f"\n{squad.results_table(minibert.read_json(folder / 'metrics.json'))}\n\neverything is in {folder}")
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
        # an evaluation does not overwrite the training's own figures
        output = run if first.resume else f"{run}/evaluation"
        parser.set_defaults(**{**minibert.saved_options(Path(run) / "config.json", Options), "output": output})
    values = vars(parser.parse_args(argv))
    del values["resume"], values["evaluate"]
    values["epochs"] = values["epochs"] or (2 if values["train"] == "excerpt" else 3)
    values["output"] = values["output"] or time.strftime("runs/%Y%m%d-%H%M%S")
    return Options(**values), bool(first.resume), Path(first.evaluate) if first.evaluate else None


def load_data(options: Options, split: str, tokenizer) -> squad.Dataset:
    """One of the two files, cut into windows."""
    path = getattr(options, split)
    if path == "squad_v2":
        path = squad.find_squad_v2(split)
    elif path == "excerpt":
        path = DATA / f"{split}.json.gz"
    sizes = (options.max_length, options.window_overlap, options.max_question_tokens)
    limit = options.max_train_examples if split == "train" else 0
    bad: list[str] = []
    progress = progress_bar(f"tokenise {split}", "chunk")
    data = squad.load_dataset(path, tokenizer, sizes, limit, bad.append if options.skip_bad else None, progress)
    if bad:
        print(f"{path}: left out {len(bad)} malformed questions, the first: {bad[0]}", file=sys.stderr)
    return data


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


def startup_table(run: "Run", train: squad.Dataset) -> str:
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
        "compute": f"{run.device}, {str(run.dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads"
        + f" x {run.processes.size} processes" * (run.processes.size > 1),
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
    dev: squad.Dataset
    tokenizer: Tokenizer
    processes: minibert.Processes

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def evaluate(self, judged_by: dict | None = None) -> dict | None:
        """Predict dev, each process its share; the first writes the predictions and figures and returns the figures.

        judged_by: the null_threshold and temperature to use; without it, the best on dev.
        """
        self.model.eval()
        options, dev, processes = self.options, self.dev, self.processes
        shares = squad.equal_shares(dev.windows.lengths, processes.size)
        bar = progress_bar("evaluate", "batch", processes.first)
        sizes = (options.max_answer_tokens, options.n_best)
        with self.autocast():
            found = squad.search(self.model, dev.windows, shares[processes.rank], self.device, *sizes, bar)
        self.model.train()
        parts = processes.gather(found)
        if parts is None:
            return None
        order = np.argsort(np.concatenate(shares))  # from the order of shares back to that of the windows
        found = (np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True))
        predictions = squad.decode(dev.examples, dev.windows, *found, options.n_best)
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
        minibert.write_json(to / "qa.json", tuned | {name: getattr(options, name) for name in kept})


def train_loop(run: Run, train: squad.Dataset, resume: bool) -> int:
    """All steps, evaluations and saves. Returns 0, or the number of the signal that stopped it."""
    options, lengths, first = run.options, train.windows.lengths, run.processes.first
    step_size = options.batch_size * options.accumulate
    per_epoch = len(squad.training_batches(lengths, step_size, options.seed, epoch=0))
    total = per_epoch * options.epochs
    optimizer = minibert.make_optimizer(run.model, options.weight_decay)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == torch.float16)
    checkpoint = run.folder / "checkpoint"
    start = minibert.load_checkpoint(checkpoint, run.model, optimizer, scaler)["step"] if resume else 0
    if resume and first:
        minibert.write_json(run.folder / "config.json", dataclasses.asdict(options))
    log = minibert.RunLog(run.folder / "log.jsonl" if first else os.devnull, options.log_every)
    model = run.processes.wrap(run.model.train())
    patience = 1 if run.device.type == "cpu" else 10  # steps between two looks at the loss: a GPU is not waited for
    bar = tqdm(
        desc="train", total=len(lengths) * options.epochs, initial=start * step_size, unit="q", disable=not first
    )
    unread: list[Step] = []
    with minibert.stop_signals() as stopped_by, bar:
        for step in range(start, total):
            epoch, batch = divmod(step, per_epoch)
            if batch == 0 or step == start:
                batches = squad.training_batches(lengths, step_size, options.seed, epoch)
            rate = options.learning_rate * minibert.schedule(step, total, options.warmup)
            torch.manual_seed(seed_of_step(options.seed, step, run.processes.rank))
            loss, norm = training_step(run, model, train, batches[batch], optimizer, scaler, rate)
            done = step + 1
            unread.append(Step(done, done / per_epoch, batches[batch], rate, loss, norm))
            evaluates = done % per_epoch == 0 or (options.eval_every and done % options.eval_every == 0)
            if not (evaluates or len(unread) == patience or done % options.log_every == 0):
                continue
            report_steps(run, train, unread, log, bar)
            stop = run.processes.highest(stopped_by[0] if stopped_by else 0, run.device)
            if evaluates and (metrics := run.evaluate()):
                report_evaluation(run, unread[-1], metrics, log, bar)
            unread.clear()
            if first and (evaluates or stop):
                minibert.save_checkpoint(checkpoint, run.model, optimizer, scaler, {"step": done})
            if stop and done < total:
                return stop
    return 0


def training_step(run: Run, model, train: squad.Dataset, rows: np.ndarray, optimizer, scaler, learning_rate: float):
    """One optimizer step on the windows `rows`, each process on its share of them; nothing here waits for a GPU.

    model: run.model as `Processes.wrap` gives it. Returns two scalar tensors: this process's part of the loss, which
    is the sum of all processes' parts, and the gradient's norm before clipping.
    """
    processes = run.processes
    mine = rows[squad.equal_shares(train.windows.lengths[rows], processes.size)[processes.rank]]
    tokens = 4096 if run.device.type == "cpu" else 32_768  # in a pass: bounds the memory that it takes
    # each pass is weighted by its share: the gradient is that of all rows at once
    passes = squad.forward_passes(train.windows.lengths[mine], run.options.batch_size, tokens) if len(mine) else []
    micros = [mine[at] for at in passes] or [rows[:1]]
    loss = torch.zeros((), device=run.device)
    for i, micro in enumerate(micros):
        batch = squad.collate(train.windows, micro).to(run.device)
        weight = len(micro) / len(rows) if len(mine) else 0.0  # a process without windows still takes part
        last = i == len(micros) - 1
        with contextlib.nullcontext() if last or processes.size == 1 else model.no_sync():
            with run.autocast():
                logits = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
            part = squad.span_loss(*logits, batch.start_positions, batch.end_positions, batch.span_mask) * weight
            scaler.scale(part * processes.size).backward()  # times their number, as gradients are averaged
        loss += part.detach()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    scaler.unscale_(optimizer)  # so that the true gradients are clipped, and once a step
    norm = nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], run.options.max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss, norm


class Step(NamedTuple):
    """A step that was taken, its loss and norm perhaps still on their way."""

    number: int
    epoch: float
    rows: np.ndarray
    learning_rate: float
    loss: torch.Tensor
    norm: torch.Tensor


def report_steps(run: Run, train: squad.Dataset, steps: list[Step], log: minibert.RunLog, bar: tqdm) -> None:
    """Wait for these steps, log them, move the bar. Raises ValueError when a loss is not finite."""
    losses = run.processes.sum(torch.stack([step.loss for step in steps])).tolist()
    for step, loss in zip(steps, losses, strict=True):
        if not math.isfinite(loss):
            ids = ", ".join(train.examples[i].id for i in train.windows.example[step.rows])
            raise ValueError(
                f"step {step.number}: the loss is {loss} on the questions {ids}; try a lower --learning-rate"
            )
        figures = {"epoch": step.epoch, "grad_norm": float(step.norm), "lr": step.learning_rate}
        log.step(step.number, loss, len(step.rows), **figures)
        bar.update(len(step.rows))
    bar.set_postfix(loss=f"{log.loss:.3f}", lr=f"{steps[-1].learning_rate:.1e}", refresh=False)


def report_evaluation(run: Run, step: Step, metrics: dict, log: minibert.RunLog, bar: tqdm) -> None:
    """Save what was evaluated, and say how it did."""
    run.save(metrics)
    shown = metrics.get("crossfit", metrics)
    log.write(step=step.number, epoch=step.epoch, exact=shown["exact"], f1=shown["f1"])
    log.restart()
    bar.write(f"epoch {step.epoch:.2f}: dev EM {shown['exact']:.2f}, F1 {shown['f1']:.2f}")


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """Of the dropout in one step of one process: so a resumed run needs no random state to go on as it would have."""
    return int(np.random.default_rng([seed, step, rank]).integers(2**63))


def progress_bar(name: str, unit: str, shown: bool = True):
    """A wrapper for loops that shows a bar once they take more than two seconds."""
    return lambda items: tqdm(items, desc=name, unit=unit, delay=2, leave=False, disable=not shown)


def trained_folder(options: Options, folder: Path) -> Path:
    return folder / ("adapter" if options.lora_rank else "model")


if __name__ == "__main__":
    logging.getLogger("minibert").setLevel(logging.ERROR)  # the table says whether the head is new
    minibert.run_command(main)
