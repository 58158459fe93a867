"""Fine-tune GPT-2 with LoRA to write the answers to questions about a text: the sibling of train.py.

    python train_gpt.py --lora-rank 8 --model openai-community/gpt2 --train squad_v2
    python train_gpt.py --learn text --output runs/text      a small GPT-2 from nothing, where none can be downloaded:
    python train_gpt.py --model runs/text/model              first it learns to write, then to answer
    python train_gpt.py --evaluate runs/NAME                 score a trained run again, on --dev if given
    python train_gpt.py --resume runs/NAME                   continue after an interruption
    torchrun --nproc_per_node=2 train_gpt.py ...             the same with several processes: docs/scaling.md

Read it beside train.py: windows have become prompts, the span search has become writing.
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
import minigpt
import minirun
import squad
from minigpt.qa import load_trained, write_answers
from minigpt.qa.writer import ROWS
from minigpt.small import small_model
from minihub import atomic_write, check_fit, read_object, write_json
from minirun import option
from squad.dataset import load_examples
from squad.prompts import Prompts, answer_loss, collate_prompts, make_prompts, text_chunks
from squad.words import describe_written

SCORED = ("dev", "max_dev_examples", "answerable_only", "max_length", "max_answer_tokens")  # what --evaluate heeds


@dataclasses.dataclass(frozen=True)
class Options(minirun.RunOptions):
    """Every option but those about the run itself: flags and --help are made from both, config.json keeps them."""

    # data
    learn: str = option("answers", "answers to questions, or first the text of the contexts, as a language model does",
                        choices=("answers", "text"), fixed=True)  # fmt: skip
    train: str = option("excerpt", "SQuAD file to train on; or excerpt, sample (both in data/), squad_v2 (official)")
    dev: str = option("excerpt", "SQuAD file to evaluate on; or excerpt, squad_v2")
    max_train_examples: int = option(0, "only the first N questions; 0: all", least=0, fixed=True)
    answerable_only: bool = option(False, "leave out unanswerable questions, of train and dev", fixed=True)
    max_dev_examples: int = option(0, "write answers to the first N dev questions only; 0: all", least=0, of="dev")
    # model
    model: str = option("openai-community/gpt2", "a hub id or a folder; --learn text makes a small one of its own")
    revision: str = option("", "hub commit or tag of the model")
    dropout: float = option(0.0, "dropout inside GPT-2", least=0, below=1)
    # LoRA
    lora_rank: int = option(8, "r, the rank of the updates; 0 trains every weight instead", least=0, fixed=True)
    lora_alpha: float = option(16.0, "the updates are scaled by alpha / r", above=0, fixed=True)
    lora_dropout: float = option(0.0, "dropout on the inputs of the updates", least=0, below=1)
    lora_targets: str = option("c_attn,mlp.c_proj", "all (linear layers), or names with commas", fixed=True)
    # prompts
    max_length: int = option(384, "tokens of a prompt with its answer; a longer context is cut", least=8, fixed=True)
    silence: str = option("", "what is taught where the text has no answer; nothing: to end at once", fixed=True)
    # optimisation
    epochs: int = option(2, "passes over the training prompts", least=1)
    batch_size: int = option(16, "prompts per forward pass", least=1, fixed=True)
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step", least=1, fixed=True)
    learning_rate: float = option(1e-3, "of AdamW after warm-up", above=0)
    weight_decay: float = option(0.01, "of AdamW, on matrices only", least=0)
    warmup: float = option(0.05, "share of the steps in which the rate rises; then it falls to 0", least=0, below=1)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", above=0)
    # writing
    max_answer_tokens: int = option(30, "longest answer written", least=1, most=10_000)

    def resolved(self) -> "Options":
        """The same with the defaults that depend on other options or on the time."""
        rank = 0 if self.learn == "text" else self.lora_rank
        output = self.output or time.strftime("runs/%Y%m%d-%H%M%S")
        return dataclasses.replace(self, lora_rank=rank, output=output)


@dataclasses.dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last."""

    options: Options
    folder: Path
    model: nn.Module
    tokenizer: Tokenizer
    train: Prompts | None  # None in an evaluation
    dev: Prompts  # with answers, for the loss
    asked: Prompts | None  # the same without, to write behind; None when text is learned
    examples: list[squad.Example]  # of dev
    fingerprints: dict[str, str]  # of model and training data, which a checkpoint must match
    device: torch.device
    dtype: torch.dtype
    processes: minirun.Processes


def main(argv: list[str] | None = None) -> int:
    """Parse, prepare, train or evaluate; returns the exit status."""
    command = minirun.parse_command(argv, Options, "train_gpt.py", __doc__.rsplit("\n\n", 1)[0], SCORED)
    options, evaluated = command.options.resolved(), command.evaluate
    with minirun.join_processes(minirun.choose_device(options.device)) as (processes, device):
        run = prepare(options, evaluated, processes, device)
        with minirun.claim_folder(run.folder, command, processes):
            if evaluated:
                evaluate(run)
            status = 0 if evaluated else train_loop(run, command.resume)
        if processes.is_main and status:
            print(f"stopped; continue with: python train_gpt.py --resume {run.folder}", file=sys.stderr)
        elif processes.is_main:
            print(f"{describe_written(read_object(run.folder / 'metrics.json'))}\neverything is in {run.folder}")
    return status


# ------------------------------------------------------------------------------------------ data and model
def prepare(options: Options, evaluated: Path | None, processes: minirun.Processes, device: torch.device) -> Run:
    """Model, tokenizer and data, checked to fit one another. Nothing is written yet, so a mistake leaves no folder."""
    minirun.check_tracker("none" if evaluated else options.track)
    minirun.keep_freed_memory()
    torch.manual_seed(options.seed)
    limits = {"train": options.max_train_examples, "dev": options.max_dev_examples}
    paths = {s: squad.find_data(getattr(options, s), s) for s in limits if s == "dev" or not evaluated}
    questions = {s: load_examples(path, limits[s], options.answerable_only)[0] for s, path in paths.items()}
    model, tokenizer = load(options, evaluated, questions.get("train", []))
    dtype = minirun.choose_precision(options.precision, device)
    check_fit(tokenizer, model.config.vocab_size, model.config.n_positions, options.max_length)
    prompts = functools.partial(prompts_of, options, tokenizer, eos_id=model.config.eos_token_id)
    train, identity = None if evaluated else prompts(questions["train"]), str(model.config.with_dropout(0.0))
    # Taken before frozen weights are rounded, so that a run can be resumed in another precision.
    fingerprints = {"model": minirun.fingerprint(model, identity), "data": train.fingerprint()} if train else {}
    minirun.prepare_frozen(model.to(device), dtype)
    sizes = options.max_length, model.config.eos_token_id, options.max_answer_tokens
    asked = make_prompts(questions["dev"], tokenizer, *sizes) if options.learn == "answers" else None
    data, place = (train, prompts(questions["dev"]), asked, questions["dev"]), (device, dtype, processes)
    return Run(options, Path(options.output), model, tokenizer, *data, fingerprints, *place)


def load(options: Options, evaluated: Path | None, examples: list[squad.Example]) -> tuple[nn.Module, Tokenizer]:
    """The model to train, with adapters unless the rank is 0; the one that a run saved; or a small one from nothing."""
    if evaluated:
        return load_trained(evaluated)
    if options.learn == "text":
        return small_model([e.context for e in examples], options.max_length, options.dropout)
    model = minigpt.load_pretrained(options.model, options.revision or None, options.dropout)
    if options.lora_rank:
        lora.add_lora(model, options.lora_rank, options.lora_alpha, options.lora_dropout, options.lora_targets)
    return model, minigpt.load_tokenizer(options.model, options.revision or None)


def prompts_of(options: Options, tokenizer: Tokenizer, examples: list[squad.Example], eos_id: int) -> Prompts:
    """What is trained on: questions with their answers, or the text of their contexts."""
    if options.learn == "text":
        return text_chunks(examples, tokenizer, options.max_length, eos_id)
    return make_prompts(examples, tokenizer, options.max_length, eos_id, silence=options.silence)


def startup_table(run: Run) -> str:
    """What is about to happen, before it takes any time."""
    options, (trained, total) = run.options, minirun.parameter_counts(run.model)
    what = f"LoRA rank {options.lora_rank} on {options.lora_targets}" if options.lora_rank else "everything"
    rows = {
        "model": f"{'a small one' if options.learn == 'text' else options.model}, {total:,} parameters",
        "trains": f"{trained:,} ({trained / total:.2%}): {what}",
        "learns": f"{options.learn}: {len(run.train):,} prompts, {int(run.train.answer_tokens.sum()):,} tokens of them",
        "dev": f"{len(run.dev):,} prompts",
        "compute": minirun.describe_place(run.device, run.dtype, run.processes.size),
        "output": str(run.folder),
    }
    return "\n".join(f"{name:>8}  {value}" for name, value in rows.items())


# ------------------------------------------------------------------------------------------------ training
def train_loop(run: Run, resume: bool) -> int:
    """All steps, evaluations and checkpoints; returns the exit status, 0 or that of the signal that stopped it."""
    options, lengths = run.options, run.train.lengths
    step_size = options.batch_size * options.gradient_accumulation_steps
    batches = functools.cache(lambda epoch: squad.training_batches(lengths, step_size, options.seed, epoch))
    optimizer = minirun.make_optimizer(run.model.train(), options.weight_decay)
    scaler = torch.amp.GradScaler(run.device.type, enabled=run.dtype == torch.float16)
    record = minirun.Record(
        run.folder, run.model, optimizer, scaler, run.processes, dataclasses.asdict(options), run.fingerprints, resume,
        steps_per_epoch=len(batches(0)), windows_per_epoch=len(run.train), unit="prompts",
        sync_every=1 if run.device.type == "cpu" or scaler.is_enabled() else 10,
        describe=lambda ids: "the prompts " + ", ".join(map(str, ids)),
    )  # fmt: skip
    if run.processes.is_main:
        print(startup_table(run))
    with record, minirun.catch_stop_signals() as stop:
        if record.evaluation_is_due:
            evaluate_and_save(run, record)
        for step in range(record.at.step, record.total_steps):
            epoch, number = divmod(step, record.steps_per_epoch)
            lr = options.learning_rate * minirun.schedule(step - record.at.skipped, record.total_steps, options.warmup)
            torch.manual_seed(minirun.step_seed(options.seed, step, run.processes.rank))
            ids = batches(epoch)[number]
            loss, grad_norm = training_step(run, ids, optimizer, scaler, lr)
            record.add_step(minirun.Step(step + 1, ids, lr, loss, grad_norm))
            if step + 1 == 50:
                lora.check_moved(run.model, f"50 steps at --learning-rate {options.learning_rate:g}")
            if record.is_behind:
                continue
            if record.evaluation_is_due:
                evaluate_and_save(run, record)
            if record.checkpoint_is_due:
                record.checkpoint()
            if stop.is_made(run.processes, run.device):
                record.checkpoint()
                break
    return 0 if record.is_finished else stop.exit_status


def training_step(run: Run, ids: np.ndarray, optimizer, scaler, lr: float):
    """One optimizer step, each process on its share; returns its part of the mean loss, and the gradient's norm."""
    options, tokens, loss = run.options, run.train.answer_tokens, torch.zeros((), device=run.device)
    limits = options.batch_size, squad.tokens_per_pass(run.device)
    for rows, share in squad.forward_passes(run.train.lengths, ids, *limits, run.processes.rank, run.processes.size):
        weight = float(tokens[rows].sum() / tokens[ids].sum()) if share else 0.0  # none: more processes than prompts
        with minirun.explain_out_of_memory(f"a batch of {len(rows)} prompts"):
            pass_loss = weight * loss_of(run, run.train, rows)
            scaler.scale(pass_loss).backward()
        loss += pass_loss.detach()
    for group in optimizer.param_groups:
        group["lr"] = lr * group["times"]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    run.processes.sum_gradients(trained)
    scaler.unscale_(optimizer)  # clipping must see the true gradients, once per step
    grad_norm = nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return loss, grad_norm


def loss_of(run: Run, prompts: Prompts, rows: np.ndarray) -> torch.Tensor:
    """The mean loss of the answer tokens of these prompts."""
    batch = collate_prompts(prompts, rows, run.model.config.eos_token_id)
    input_ids, attention_mask, labels = (tensor.to(run.device) for tensor in batch)
    with minirun.autocast(run.device, run.dtype):
        return answer_loss(run.model.transformer(input_ids, attention_mask), labels, run.model.lm_head)


# ------------------------------------------------------------------------------------ evaluation and saving
@torch.no_grad()
def evaluate(run: Run) -> dict | None:
    """Loss on dev and, of answers, EM and F1 of what each process writes on its share; None but in the main one."""
    options, processes, losses = run.options, run.processes, np.zeros(len(run.dev))
    bar = functools.partial(minirun.progress_bar, shown=processes.is_main)
    run.model.eval()
    shards = squad.shard_by_tokens(run.dev.lengths, processes.size)
    mine = shards[processes.rank]
    order = mine[np.argsort(run.dev.lengths[mine], kind="stable")]
    for rows in bar("loss on dev")([order[at : at + ROWS] for at in range(0, len(order), ROWS)]):
        losses[rows] = float(loss_of(run, run.dev, rows))
    found = [losses[mine]]
    if run.asked:
        asked = Prompts([run.asked.ids[row] for row in mine], run.asked.answer_tokens[mine])
        with minirun.autocast(run.device, run.dtype):
            settings = options.max_answer_tokens, options.silence, bar("answer dev")
            found.append(np.array(write_answers(run.model, run.tokenizer, asked, *settings), object))
    run.model.train()
    if (found := processes.gather_rows(found, shards)) is None:
        return None
    metrics, answers = {"loss": float(np.average(found[0], weights=run.dev.answer_tokens))}, {}
    if run.asked:
        answers = {example.id: text for example, text in zip(run.examples, found[1], strict=True)}
        metrics |= squad.official_metrics(run.examples, answers)
        metrics["always_empty"] = squad.official_metrics(run.examples, dict.fromkeys(answers, ""))
    with atomic_write(run.folder) as part:
        write_json(part / "config.json", dataclasses.asdict(run.options))
        write_json(part / "metrics.json", metrics)
        write_json(part / "predictions.json", answers)
    return metrics


def evaluate_and_save(run: Run, record: minirun.Record) -> None:
    """Evaluate, and keep what was trained with what it takes to use it."""
    record.checkpoint()  # an evaluation may take long: now the steps before it are safe
    if metrics := evaluate(run):
        save(run)
        record.add_evaluation(metrics["loss"], metrics.get("exact"), metrics.get("f1"))
    record.checkpoint()


def save(run: Run) -> None:
    """Write the adapter, or the model with its tokenizer."""
    options = run.options
    with atomic_write(run.folder / ("adapter" if options.lora_rank else "model")) as part:
        if options.lora_rank:
            names = minigpt.checkpoint_names(run.model.config)
            base = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
            lora.save_adapter(run.model, part, names, "CAUSAL_LM", base, options.revision, fan_in_fan_out=True)
        else:
            minigpt.save_pretrained(run.model, part)
            run.tokenizer.save(str(part / "tokenizer.json"))


if __name__ == "__main__":
    minirun.run_command(main)
