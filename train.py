"""Fine-tune BERT with LoRA to answer questions about a text (SQuAD 2.0).

    python train.py --lora-rank 8                 the default run: MiniLM on the questions in data/
    python train.py --evaluate runs/NAME          score a trained run again, on --dev if given
    python train.py --resume runs/NAME            continue after an interruption
    torchrun --nproc_per_node=2 train.py ...      the same with several processes: docs/scaling.md

Read it top-down: options, main, data and model, the loop, the step, evaluation, saving.
"""

import dataclasses
import functools
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

import lora
import minibert
import minirun
import squad
from minibert.qa.teachers import ask_teachers, load_teachers
from minihub import atomic_write, check_fit, write_json
from minirun import Processes, option
from squad.augment import augment
from squad.causes import known_causes
from squad.reader import settings_of
from squad.teach import SoftTargets
from squad.words import show_results

EXCERPT = {"seconds": 320, "least": 1_800, "most": 15_000}  # how many questions a run on it takes
SLOW = {"batch_size": 4, "max_dev_examples": 700}  # where no more than the least fit: more steps, less to evaluate
SAMPLE = {"augment": 9_000, "teachers": "shipped"}  # how `--train sample` repeats the shipped adapter's figures
SCORED = ("dev", "max_dev_examples", "skip_bad", "answerable_only", "max_length", "window_overlap", "language", "model",
          "max_question_tokens", "max_answer_tokens", "scoring", "revision", "compile")  # for --evaluate  # fmt: skip
HEAD = "qa_outputs"  # starts from random weights, so it is trained in full beside the adapters


@dataclasses.dataclass(frozen=True)
class Options(minirun.RunOptions):
    """Every option but those about the run itself: flags and --help are made from both, config.json keeps them."""

    # data and windows
    train: str = option("excerpt", "SQuAD file to train on; or excerpt, sample (both in data/), squad_v2 (official)")
    dev: str = option("excerpt", "SQuAD file to evaluate on; or excerpt, squad_v2")
    max_train_examples: int = option(0, "only the first N; 0: all, of excerpt 5 minutes' worth", least=0, fixed=True)
    max_dev_examples: int = option(0, "only the first N; 0: all, of excerpt 700 if slow", least=0, of="dev")
    skip_bad: bool = option(False, "leave out malformed questions instead of stopping at the first", fixed=True)
    answerable_only: bool = option(False, "leave out unanswerable questions, of train and dev", fixed=True)
    augment: int = option(0, "N questions made unanswerable; 0: none (excerpt 1/8, sample 9,000)", least=0, fixed=True)
    leave_out: int = option(0, "N whose text lost its answer's sentence; 0: none (excerpt 1/8)", least=0, fixed=True)
    max_length: int = option(384, "tokens in a window: question, context, special ones", least=1, fixed=True)
    window_overlap: int = option(128, "context tokens that neighbouring windows share", least=0, fixed=True)
    max_question_tokens: int = option(64, "a longer question is cut", least=1, fixed=True)
    # model and LoRA
    model: str = option("minilm", "minilm, a folder, or a hub id such as google-bert/bert-base-uncased")
    revision: str = option("", "hub commit or tag of the model")
    dropout: float = option(0.0, "dropout inside BERT; slow on a CPU", least=0, below=1)
    compile: bool = option(False, "torch.compile the model: a minute or two before the first step; for GPUs")
    teachers: str = option("", "models to imitate, with commas, or shipped, none: half of the loss", fixed=True)
    lora_rank: int = option(8, "r, the rank of the updates; 0 trains every weight instead", least=0, fixed=True)
    lora_alpha: float = option(16.0, "the updates are scaled by alpha / r", above=0, fixed=True)
    lora_dropout: float = option(0.0, "dropout on the inputs of the updates", least=0, below=1)
    lora_targets: str = option("all", "all (linear layers), attention (query, value), or names with commas", fixed=True)
    # optimisation
    epochs: int = option(0, "passes over the training windows; 0: 2, but 1 over the excerpt", least=0)
    batch_size: int = option(0, "windows per forward pass; 0: 16, of excerpt 4 if slow", least=0, fixed=True)
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step", least=1, fixed=True)
    learning_rate: float = option(2e-3, "of AdamW after warm-up; about 1e-4 for --lora-rank 0", above=0)
    head_rate: float = option(10.0, "the new QA head learns this many times as fast", above=0)
    null_weight: float = option(1.5, "weight of the loss of windows without an answer", above=0)
    weight_decay: float = option(0.01, "of AdamW, on matrices only", least=0)
    warmup: float = option(0.05, "share of the steps in which the rate rises; then it falls to 0", least=0, below=1)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", above=0)
    # decoding and scoring
    max_answer_tokens: int = option(30, "longest answer looked for", least=1, most=10_000)
    scoring: str = option("official", "how answers are compared", choices=("official", "multilingual"))
    language: str = option("", "ISO code of the answers' language, for multilingual scoring",
                           pattern="([a-z]{2,3})?", expected="an ISO code such as ur, or none")  # fmt: skip

    def with_recipe(self) -> "Options":
        """For a new run: `sample` alone brings made questions and a teacher. ValueError if two options contradict."""
        if self.answerable_only and (self.augment or self.leave_out):
            raise ValueError("--augment and --leave-out make what --answerable-only leaves out: give one of them")
        given = self.augment or self.leave_out or self.teachers or self.max_train_examples or self.answerable_only
        known = (self.train, self.model) == ("sample", "minilm")
        return dataclasses.replace(self, **SAMPLE) if known and not given else self

    def resolved(self) -> "Options":
        """The same with the defaults that depend on other options or on the time."""
        epochs = self.epochs or (1 if self.train == "excerpt" else 2)
        output = self.output or time.strftime("runs/%Y%m%d-%H%M%S")
        return dataclasses.replace(self, epochs=epochs, batch_size=self.batch_size or 16, output=output)


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last."""

    options: Options
    folder: Path
    model: nn.Module
    tokenizer: Tokenizer
    train: squad.Dataset | None  # None in an evaluation
    dev: squad.Dataset
    taught: SoftTargets | None  # what --teachers say about each window of train
    fingerprints: dict[str, str]  # of model, training data and teachers, which a checkpoint must match
    settings: dict  # the threshold and calibration of a trained run; {} for the best on dev
    device: torch.device
    dtype: torch.dtype
    processes: Processes


def main(argv: list[str] | None = None) -> int:
    """Parse, prepare, train or evaluate, show the results; returns the exit status."""
    command = minirun.parse_command(argv, Options, "train.py", __doc__.rsplit("\n\n", 1)[0], SCORED)
    options, evaluated = command.options, command.evaluate
    with minirun.join_processes(minirun.choose_device(options.device)) as (processes, device):
        run = prepare(options, evaluated, command.resume, processes, device)
        with minirun.claim_folder(run.folder, command, processes):
            if evaluated:
                evaluate(run)
            status = 0 if evaluated else train_loop(run, command.resume)
        if processes.is_main and status:
            print(f"stopped; continue with: python train.py --resume {run.folder}", file=sys.stderr)
        elif processes.is_main:
            print(f"\n{show_results(run.folder, run.dev.examples)}\n\neverything is in {run.folder}")
            print(f"ask it: python -m minibert.qa --model {evaluated or run.folder} --serve")
    return status


# ------------------------------------------------------------------------------------------ data and model
def prepare(options: Options, evaluated: Path | None, resume: bool, processes: Processes, device: torch.device) -> Run:
    """Model, tokenizer and data, checked to fit one another. Nothing is written yet, so a mistake leaves no folder."""
    options = options if evaluated or resume else options.with_recipe()
    minirun.check_tracker("none" if evaluated else options.track)
    minirun.keep_freed_memory()
    torch.manual_seed(options.seed)
    # A mistyped name is found before anything takes time.
    paths = {s: squad.find_data(getattr(options, s), s) for s in ("dev", "train") if s == "dev" or not evaluated}
    model, tokenizer = load_model(options, evaluated)
    config, dtype = model.config, minirun.choose_precision(options.precision, device)
    check_fit(tokenizer, config.vocab_size, config.longest_sequence, options.max_length)
    teachers = {} if evaluated else load_teachers(options.teachers, tokenizer, options.max_length)
    settings = squad.read_settings(trained_part(options, evaluated) / "qa.json") if evaluated else {}
    # Taken before frozen weights are rounded, so that a run can be resumed in another precision.
    fingerprints = {} if evaluated else {"model": minirun.fingerprint(model, str(config.with_dropout(0.0)))}
    minirun.prepare_frozen(model.to(device), dtype, pack=not options.compile)
    if options.train == "excerpt" and not (options.max_train_examples or evaluated or resume or processes.size > 1):
        options = fit_excerpt(options, len(teachers), model.train(), device, dtype)
    options = options.resolved()
    place = device, dtype, processes
    dev, train, taught = load_data(options, "dev", paths["dev"], tokenizer, processes.is_main), None, None
    if not evaluated:
        train = load_data(options, "train", paths["train"], tokenizer, processes.is_main)
        taught, of_teachers = ask_teachers(teachers, train.windows, *place)
        fingerprints |= {"data": squad.fingerprint(train.examples, train.windows)} | of_teachers
    if options.compile:
        model.compile(dynamic=True)
    return Run(options, Path(options.output), model, tokenizer, train, dev, taught, fingerprints, settings, *place)


def fit_excerpt(options: Options, asked: int, model: nn.Module, device: torch.device, dtype: torch.dtype) -> Options:
    """The options with as many questions, an eighth made in each way, and as much of dev as the time allows."""
    plan, length = options.resolved(), min(options.max_length, 160)  # about the mean length of a batch
    shape = min(plan.batch_size, squad.tokens_per_pass(device) // length), length
    passes = plan.epochs + asked / 3  # to ask one of the teachers takes a third of a pass
    number = minirun.fit_to_time(passes * minirun.seconds_per_window(model, device, dtype, shape), **EXCERPT)
    slow = number == EXCERPT["least"]
    usual = dict.fromkeys(("augment", "leave_out"), 0 if slow or options.answerable_only else number // 8)
    if slow:
        print("that is few: it will begin to find answers, and hardly know when there is none (--max-train-examples)")
        usual |= SLOW if options.dev == "excerpt" else SLOW | {"max_dev_examples": 0}
    found = {name: getattr(options, name) or value for name, value in usual.items()}
    real = max(number - found["augment"] - found["leave_out"], number // 4)  # they are made of it, so it cannot be 0
    return dataclasses.replace(options, max_train_examples=real, **found)


def load_data(options: Options, split: str, path: Path, tokenizer: Tokenizer, talks: bool = True) -> squad.Dataset:
    """The `train` or `dev` file, cut into windows."""
    sizes = (options.max_length, options.window_overlap, options.max_question_tokens)
    progress = minirun.progress_bar(f"tokenise {split}", "chunk", talks)
    made = (options.augment, options.leave_out) if split == "train" else (0, 0)
    which = getattr(options, f"max_{split}_examples"), options.skip_bad, progress, options.answerable_only
    return squad.load_dataset(path, tokenizer, sizes, *which, lambda read: augment(read, *made, seed=options.seed))


def load_model(options: Options, run: Path | None) -> tuple[nn.Module, Tokenizer]:
    """What this run trained: base and adapter, or all weights. None: the pretrained model, new adapters and QA head."""
    source, missing_head = (options.model, options.revision or None), "allow"
    if run and not options.lora_rank:  # its path is absolute, so that it is no hub id
        source, missing_head = (trained_part(options, run).resolve(), None), "error"
    model = minibert.load_pretrained(*source, options.dropout, missing_head)
    if run and options.lora_rank:
        lora.load_adapter(model, trained_part(options, run), minibert.checkpoint_names(model.config), HEAD)
    elif options.lora_rank:
        targets = {"attention": "query,value"}.get(options.lora_targets, options.lora_targets)  # the LoRA paper's
        lora.add_lora(model, options.lora_rank, options.lora_alpha, options.lora_dropout, targets, HEAD)
    return model, minibert.load_tokenizer(*source)


def trained_part(options: Options, folder: Path) -> Path:
    return folder / ("adapter" if options.lora_rank else "model")


def startup_table(run: Run, batches: list[np.ndarray]) -> str:
    """What is about to happen, before it takes any time. batches: of the first epoch."""
    options, (trained, total) = run.options, minirun.parameter_counts(run.model)
    adapters = f"QA head, LoRA rank {options.lora_rank} on {options.lora_targets}"
    waste = squad.padding_waste(run.train.windows, batches, options.batch_size, squad.tokens_per_pass(run.device))
    rows = {
        "model": f"{options.model}, {total:,} parameters",
        "trains": f"{trained:,} ({trained / total:.2%}): {adapters if options.lora_rank else 'everything'}",
        "train": run.train.summary() + (f"; taught by: {options.teachers}" if run.taught else ""),
        "dev": run.dev.summary(),
        "batches": f"{options.batch_size} windows x {options.gradient_accumulation_steps}, {waste:.1%} padding",
        "compute": minirun.describe_place(run.device, run.dtype, run.processes.size),
        "output": str(run.folder),
    }
    return "\n".join(f"{name:>8}  {value}" for name, value in rows.items())


# ------------------------------------------------------------------------------------------------ training
def train_loop(run: Run, resume: bool) -> int:
    """All steps, evaluations and checkpoints; returns the exit status, 0 or that of the signal that stopped it."""
    options, processes, windows = run.options, run.processes, run.train.windows
    step_size = options.batch_size * options.gradient_accumulation_steps
    batches = functools.cache(lambda epoch: squad.training_batches(windows.lengths, step_size, options.seed, epoch))
    optimizer = minirun.make_optimizer(run.model, options.weight_decay, HEAD, options.head_rate)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == torch.float16)
    record = minirun.Record(
        run.folder, run.model, optimizer, scaler, processes, dataclasses.asdict(options), run.fingerprints, resume,
        steps_per_epoch=len(batches(0)), windows_per_epoch=len(windows),
        # Reading a loss waits for the GPU. A step that float16 skips does not move the schedule, so it must be known.
        sync_every=1 if run.device.type == "cpu" or scaler.is_enabled() else 10,
        describe=lambda ids: "the questions " + ", ".join(run.train.examples[i].id for i in windows.example_index[ids]),
    )  # fmt: skip
    if processes.is_main:
        print(startup_table(run, batches(0)))
    model = processes.wrap(run.model.train())
    with record, minirun.catch_stop_signals() as stop:
        if record.evaluation_is_due:
            evaluate_and_save(run, record)
        for step in range(record.at.step, record.total_steps):
            epoch, number = divmod(step, record.steps_per_epoch)
            window_ids = batches(epoch)[number]
            lr = options.learning_rate * minirun.schedule(step - record.at.skipped, record.total_steps, options.warmup)
            torch.manual_seed(minirun.step_seed(options.seed, step, processes.rank))
            loss, grad_norm = training_step(run, model, window_ids, optimizer, scaler, lr)
            record.add_step(minirun.Step(step + 1, window_ids, lr, loss, grad_norm))
            if step + 1 == 50:
                lora.check_moved(run.model, f"50 steps at --learning-rate {options.learning_rate:g}")
            if record.is_behind:
                continue
            if record.evaluation_is_due:
                evaluate_and_save(run, record)
            if record.checkpoint_is_due:
                record.checkpoint()
            if stop.is_made(processes, run.device):
                record.checkpoint()
                break
    return 0 if record.is_finished else stop.exit_status


def training_step(run: Run, model, window_ids: np.ndarray, optimizer, scaler, lr: float):
    """One optimizer step on these windows, each process on its share; only float16's scaler waits for a GPU.

    Args: model: run.model as `Processes.wrap` returns it.
    Returns two scalar tensors: this process's part of the step's mean loss, and the gradient's norm before clipping.
    """
    options, windows, processes = run.options, run.train.windows, run.processes
    limits = options.batch_size, squad.tokens_per_pass(run.device)
    passes = squad.forward_passes(windows.lengths, window_ids, *limits, processes.rank, processes.size)
    loss = torch.zeros((), device=run.device)
    for number, (ids, share) in enumerate(passes, start=1):
        batch = squad.collate(windows, ids)
        with minirun.explain_out_of_memory(batch), processes.gradient_sync(model, now=number == len(passes)):
            batch = batch.to(run.device)
            with minirun.autocast(run.device, run.dtype):
                logits = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
            pass_loss = squad.span_loss(*logits, *batch.labels, options.null_weight)
            if run.taught:
                pass_loss = run.taught.beside(pass_loss, *logits, ids, batch.span_mask)
            scaler.scale(processes.size * share * pass_loss).backward()  # the processes' gradients are averaged
        loss += share * pass_loss.detach()
    for group in optimizer.param_groups:
        group["lr"] = lr * group["times"]
    scaler.unscale_(optimizer)  # clipping must see the true gradients, once per step
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    grad_norm = nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss, grad_norm


# ------------------------------------------------------------------------------------ evaluation and saving
def evaluate(run: Run) -> dict | None:
    """Predict dev, each process its share; the main process writes predictions and figures and returns the figures."""
    options, dev, processes = run.options, run.dev, run.processes
    shards = squad.shard_by_tokens(dev.windows.lengths, processes.size)
    settings = run.device, options.max_answer_tokens, minirun.progress_bar("evaluate", shown=processes.is_main)
    run.model.eval()
    with minirun.autocast(run.device, run.dtype), minirun.explain_out_of_memory("a batch of dev", "lower --max-length"):
        found = squad.predict_windows(run.model, dev.windows, shards[processes.rank], *settings, squad.span_loss)
    run.model.train()
    if (found := processes.gather_rows(found, shards)) is None:
        return None
    predictions = squad.decode(dev.examples, dev.windows, squad.WindowPredictions(*found))
    scorings = squad.choose_scorings(options.scoring, options.language, [example.context for example in dev.examples])
    tuned = run.settings.get("null_threshold"), run.settings.get("temperature"), run.settings.get("best_bonus", 0.0)
    metrics = squad.evaluate(dev.examples, predictions, *tuned, *scorings, known_causes(dev.examples))
    metrics |= {"loss": float(found[-1].mean())} | ({"left_out": dev.left_out} if dev.left_out else {})
    with atomic_write(run.folder) as part:
        write_json(part / "config.json", dataclasses.asdict(options))
        squad.write_results(part, predictions, metrics)
    return metrics


def evaluate_and_save(run: Run, record: minirun.Record) -> None:
    """Evaluate, and keep what was trained with what it takes to use it."""
    record.checkpoint()  # an evaluation may take long: now the steps before it are safe
    if metrics := evaluate(run):
        save(run, metrics)
        figures = squad.headline(metrics)
        record.add_evaluation(metrics["loss"], figures["exact"], figures["f1"])
    record.checkpoint()


def save(run: Run, metrics: dict) -> None:
    """Write the adapter or the model, and qa.json beside it: threshold, calibration and window sizes."""
    options = run.options
    with atomic_write(trained_part(options, run.folder)) as part:
        if options.lora_rank:
            names = minibert.checkpoint_names(run.model.config)
            base = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
            lora.save_adapter(run.model, part, names, "QUESTION_ANS", base, options.revision)
        else:
            minibert.save_pretrained(run.model, part)
            run.tokenizer.save(str(part / "tokenizer.json"))
        sizes = ("max_length", "window_overlap", "max_question_tokens", "max_answer_tokens")
        write_json(part / "qa.json", settings_of(metrics) | {name: getattr(options, name) for name in sizes})


if __name__ == "__main__":
    minirun.run_command(main)
