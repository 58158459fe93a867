"""Fine-tune BERT with LoRA to answer questions about a text (SQuAD 2.0).

    python train.py --lora-rank 8                 the default run: MiniLM on the questions in data/
    python train.py --evaluate runs/NAME          score a trained run again, on --dev if given
    python train.py --resume runs/NAME            go on after an interruption
    python train.py --selfcheck                   prove that it computes right, in a few seconds
    python train.py --suggest-max-length          show how long --train and --dev are, and what fits them
    torchrun --nproc_per_node=2 train.py ...      the same with several processes: docs/scaling.md

Read it top-down, after options.py: main() in the order in which things happen.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator
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
from options import Command, Options, parse_options
from record import Record, Step

DATA = Path(__file__).parent / "data"


def main(argv: list[str] | None = None) -> int:
    """Parse, prepare, train, evaluate, save; returns the exit status."""
    command = parse_options(argv, __doc__.rsplit("\n\n", 1)[0])
    if command.selfcheck:
        import selfcheck

        return selfcheck.main()
    if command.suggest_max_length:
        import suggest

        return suggest.main(command.options)
    with minibert.join_processes(minibert.choose_device(command.options.device)) as (processes, device):
        return work(command, processes, device)


def work(command: Command, processes: minibert.Processes, device: torch.device) -> int:
    """What each process does; only the first writes files and talks."""
    options, evaluated_run = command.options, command.evaluate
    folder = Path(options.output)
    minibert.check_tracker("none" if evaluated_run else options.track)
    dtype = minibert.choose_precision(options.precision, device)
    minibert.keep_freed_memory()
    torch.manual_seed(options.seed)

    tokenizer = minibert.load_tokenizer(options.model, options.revision or None)
    model = load_trained(options, evaluated_run) if evaluated_run else prepare_model(options)
    settings = squad.read_settings(trained_folder(options, evaluated_run) / "qa.json") if evaluated_run else {}
    minibert.check_fit(tokenizer, model.config, options.max_length)
    dev = load_data(options, "dev", tokenizer, processes.first)
    train = None if evaluated_run else load_data(options, "train", tokenizer, processes.first)
    # before any rounding: another precision is no other model
    made_from = {} if evaluated_run else fingerprints(model, train)
    minibert.store_frozen_as(dtype, model.to(device))
    if options.compile:
        model.compile(dynamic=True)
    run = Run(options, folder, model, device, dtype, dev, tokenizer, processes)

    with minibert.only_writer(folder) if processes.first else contextlib.nullcontext():
        if not (evaluated_run or command.resume) and (folder / "config.json").exists():
            raise ValueError(f"{folder} already holds a run: --resume it, or choose another --output")
        processes.wait()  # until all have looked
        if processes.first and not evaluated_run:
            print(startup_table(run, train))
        if evaluated_run:
            run.evaluate(settings)
        elif stopped_by := train_loop(run, train, made_from, command.resume):
            if processes.first:
                print(f"stopped; go on with: python train.py --resume {folder}", file=sys.stderr)
            return 128 + stopped_by
    if processes.first:
        print(f"\n{squad.results_table(minibert.read_json(folder / 'metrics.json'))}\n\neverything is in {folder}")
        print(f"ask it: python answer.py --model {evaluated_run or folder} --serve")
    return 0


def fingerprints(model: nn.Module, train: squad.Dataset) -> dict[str, str]:
    """What a checkpoint is worth nothing without, by name."""
    return {"model": minibert.fingerprint(model), "data": squad.fingerprint(train.examples, train.windows)}


def load_data(options: Options, split: str, tokenizer: Tokenizer, talks: bool = True) -> squad.Dataset:
    """One of the two files, cut into windows. talks: shows how far it is, and says what was left out."""
    path = getattr(options, split)
    if path == "squad_v2":
        path = squad.find_squad_v2(split)
    elif path == "excerpt":
        path = DATA / f"{split}.json.gz"
    sizes = (options.max_length, options.window_overlap, options.max_question_tokens)
    limit = options.max_train_examples if split == "train" else 0
    bad: list[str] = []
    progress = progress_bar(f"tokenise {split}", "chunk", talks)
    skip_bad = bad.append if options.skip_bad else None
    data = squad.load_dataset(path, tokenizer, sizes, limit, skip_bad, progress, options.answerable_only)
    if bad and talks:
        print(f"{path}: left out {len(bad)} malformed questions, the first: {bad[0]}", file=sys.stderr)
    return data


def prepare_model(options: Options) -> nn.Module:
    """The pretrained model, with adapters unless the rank is 0, and the dropout asked for."""
    model = minibert.load_pretrained(options.model, options.revision or None, options.dropout, head="later")
    if options.lora_rank:
        names = [name.strip() for name in options.lora_targets.split(",")]
        targets = names[0] if len(names) == 1 else names
        lora.add_lora(model, options.lora_rank, options.lora_alpha, options.lora_dropout, targets)
    return model


def load_trained(options: Options, folder: Path) -> nn.Module:
    """The model that a run saved: base and adapter, or all weights."""
    if not options.lora_rank:
        return minibert.load_pretrained(trained_folder(options, folder))
    model = minibert.load_pretrained(options.model, options.revision or None, head="later")
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
    left_out = [f" ({data.left_out:,} unanswerable left out)" * options.answerable_only for data in (train, run.dev)]
    unanswerable = f" ({np.mean([e.is_impossible for e in train.examples]):.0%} unanswerable)"
    rows = {
        "model": f"{options.model}, {total:,} parameters",
        "trains": f"{trained:,} ({trained / total:.2%}): "
        + (f"QA head, LoRA rank {options.lora_rank} on {', '.join(adapted)}" if adapted else "everything"),
        "frozen": f"{total - trained:,}",
        "train": f"{len(train.examples):,} questions{left_out[0] or unanswerable}, {len(lengths):,} windows",
        "dev": f"{len(run.dev.examples):,} questions{left_out[1]}, {len(run.dev.windows):,} windows",
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

    def evaluate(self, judged_by: dict | None = None, stopped_by: list[int] | None = None) -> dict | None:
        """Predict dev, each process its share; the first writes the predictions and figures and returns the figures.

        judged_by: the null_threshold and temperature to use; without it, the best on dev.
        stopped_by: raises Stopped between two batches once there is something in it, if no other process waits.
        """
        self.model.eval()
        options, dev, processes = self.options, self.dev, self.processes
        shares = squad.equal_shares(dev.windows.lengths, processes.size)
        bar = progress_bar("evaluate", "batch", processes.first)
        if stopped_by is not None and processes.size == 1:
            bar = stopping(bar, stopped_by)
        sizes = (options.max_answer_tokens, options.n_best)
        with self.autocast(), minibert.explain_out_of_memory("a batch of dev", "lower --max-length"):
            found = squad.search(self.model, dev.windows, shares[processes.rank], self.device, *sizes, bar)
        self.model.train()
        parts = processes.gather(found)
        if parts is None:
            return None
        order = np.argsort(np.concatenate(shares))  # from the order of shares back to that of the windows
        *found, losses = (np.concatenate(arrays)[order] for arrays in zip(*parts, strict=True))
        predictions = squad.decode(dev.examples, dev.windows, *found, options.n_best)
        given = judged_by or {}
        tuned = given.get("null_threshold"), given.get("temperature")
        contexts = [example.context for example in dev.examples]
        scoring, compared = squad.choose_scorings(options.scoring, options.language, contexts)
        metrics = squad.evaluate(dev.examples, predictions, *tuned, scoring, compared)
        metrics["loss"] = float(losses.mean())  # over windows, as in training
        metrics |= {"left_out": dev.left_out} if options.answerable_only else {}
        with minibert.whole_files(self.folder) as part:
            squad.write_results(part, predictions, metrics)
            if judged_by is not None:  # else the run's options are there already
                minibert.write_json(part / "config.json", dataclasses.asdict(options))
        return metrics

    def save(self, metrics: dict) -> None:
        """Write what was trained, and beside it what it takes to use it."""
        options = self.options
        with minibert.whole_files(trained_folder(options, self.folder)) as part:
            if options.lora_rank:
                names = minibert.checkpoint_names(self.model.config)
                base = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
                lora.save_adapter(self.model, part, names, base, options.revision)
            else:
                minibert.save_pretrained(self.model, part)
                self.tokenizer.save(str(part / "tokenizer.json"))
            kept = ("max_length", "window_overlap", "max_question_tokens", "max_answer_tokens")
            tuned = {"null_threshold": metrics["threshold"], "temperature": metrics["calibration"]["temperature"]}
            minibert.write_json(part / "qa.json", tuned | {name: getattr(options, name) for name in kept})


class Stopped(Exception):
    """Ctrl-C or SIGTERM came in the middle of an evaluation."""


def train_loop(run: Run, train: squad.Dataset, made_from: dict[str, str], resume: bool) -> int:
    """All steps, evaluations and saves. Returns 0, or the number of the signal that stopped it.

    made_from: fingerprints of the model and of the training windows, for the checkpoints.
    """
    options, lengths, processes = run.options, train.windows.lengths, run.processes
    step_size = options.batch_size * options.accumulate
    per_epoch = len(squad.training_batches(lengths, step_size, options.seed, epoch=0))
    total = per_epoch * options.epochs
    optimizer = minibert.make_optimizer(run.model, options.weight_decay)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == torch.float16)
    record = Record(run.folder, options, processes, made_from, run.model, optimizer, scaler, resume, total)
    model = processes.wrap(run.model.train())
    # steps between two looks at the loss: a GPU is not waited for, but float16 may skip a step, which has to be known
    patience = 1 if run.device.type == "cpu" or scaler.is_enabled() else 10
    start, unread = record.at.step, []
    bar = tqdm(
        desc="train",
        total=len(lengths) * options.epochs,
        initial=start * step_size,
        unit="q",
        disable=not processes.first,
    )
    with contextlib.closing(record.log), minibert.stop_signals() as stopped_by, bar:
        for step in range(start, total + 1):
            due = step % per_epoch == 0 or (options.eval_every and step % options.eval_every == 0)
            evaluates = due and step > record.at.evaluated
            saves = options.checkpoint_steps and step % options.checkpoint_steps == 0
            stop = 0
            if unread and (evaluates or saves or len(unread) == patience or step % options.log_every == 0):
                record.steps(unread, train, bar)
                unread.clear()
                stop = processes.highest(stopped_by[0] if stopped_by else 0, run.device)
                if evaluates or stop or record.checkpoint_is_due:  # an evaluation may take long: the steps are safe
                    record.checkpoint()
            if evaluates and not stop:
                stop = evaluate_and_save(run, record, step, step / per_epoch, stopped_by, bar)
                evaluates = stop > 0
            if step == total or stop:
                return stop if step < total or evaluates else 0
            epoch, batch = divmod(step, per_epoch)
            if batch == 0 or step == start:
                batches = squad.training_batches(lengths, step_size, options.seed, epoch)
            rate = options.learning_rate * minibert.schedule(step - record.at.skipped, total, options.warmup)
            torch.manual_seed(seed_of_step(options.seed, step, processes.rank))
            loss, norm = training_step(run, model, train, batches[batch], optimizer, scaler, rate)
            unread.append(Step(step + 1, (step + 1) / per_epoch, batches[batch], rate, loss, norm))


def evaluate_and_save(run: Run, record: Record, step: int, epoch: float, stopped_by: list[int], bar: tqdm) -> int:
    """Returns 0, or the number of the signal that came in the middle, after which nothing was written."""
    try:
        metrics = run.evaluate(stopped_by=stopped_by)
    except Stopped:
        return stopped_by[0]
    if metrics:
        run.save(metrics)
        record.evaluation(step, epoch, metrics, bar)
        record.checkpoint()
    record.at.evaluated = step
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
        batch = squad.collate(train.windows, micro)
        weight = len(micro) / len(rows) if len(mine) else 0.0  # a process without windows still takes part
        last = i == len(micros) - 1
        syncs = contextlib.nullcontext() if last or processes.size == 1 else model.no_sync()
        with explain_memory(batch, run.options), syncs:
            batch = batch.to(run.device)
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


def stopping(bar: Callable[[Iterable], Iterable], stopped_by: list[int]) -> Callable[[Iterable], Iterable]:
    """`bar`, but that Stopped is raised between two items once there is something in `stopped_by`."""

    def items(of: Iterable) -> Iterator:
        for item in bar(of):
            if stopped_by:
                raise Stopped
            yield item

    return items


def explain_memory(batch: squad.Batch, options: Options):
    B, T = batch.input_ids.shape
    advice = f"lower --batch-size (now {options.batch_size}, raise --accumulate to keep the step) or --max-length"
    return minibert.explain_out_of_memory(f"a batch of {B} windows of {T} tokens", advice)


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """Of the dropout in one step of one process: so a resumed run needs no random state to go on as it would have."""
    return int(np.random.default_rng([seed, step, rank]).integers(2**63))


def progress_bar(name: str, unit: str, shown: bool = True):
    """A wrapper for loops that shows a bar once they take more than two seconds."""
    return lambda items: tqdm(items, desc=name, unit=unit, delay=2, leave=False, disable=not shown)


def trained_folder(options: Options, folder: Path) -> Path:
    return folder / ("adapter" if options.lora_rank else "model")


if __name__ == "__main__":
    minibert.run_command(main)
