"""What a training run writes down, and how it goes on from there: log, evaluations, checkpoints."""

import dataclasses
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import lora
import minibert
import squad
from options import Options, changes


class Step(NamedTuple):
    """A step that was taken, its loss and norm perhaps still on their way."""

    number: int
    epoch: float
    rows: np.ndarray
    learning_rate: float
    loss: torch.Tensor
    norm: torch.Tensor


@dataclass
class Progress:
    """How far a run is: with weights and optimizer, all that a checkpoint keeps."""

    made_from: dict[str, str]  # fingerprints of the model and of the training windows
    step: int = 0
    skipped: int = 0  # steps that float16's scaler left out; they do not move the schedule
    evaluated: int = 0  # the step of the last evaluation
    evaluations: list[dict] = field(default_factory=list)
    best: dict = field(default_factory=dict)
    log: dict = field(default_factory=dict)


def write_options(options: Options, folder: Path) -> None:
    """config.json; what is different from the one that is there is told."""
    path = folder / "config.json"
    if path.exists() and (changed := changes(minibert.read_json(path), options)):
        print(f"changed since the run was started: {', '.join(changed)}", file=sys.stderr)
    with minibert.whole_files(folder) as part:
        minibert.write_json(part / path.name, dataclasses.asdict(options))


class Record:
    """A run's past. Only the first of several processes writes any of it.

    Args:
        folder: the run's.
        made_from: fingerprints of the model and of the training windows, which a checkpoint must match.
        resume: go on from the newest whole checkpoint, or from the first step where there is none yet.
        total: steps that the options ask for.
    Raises CheckpointError when all checkpoints are damaged, or made from another model or other data, and ValueError
    when the run is beyond its total, or the tracker cannot start.
    """

    def __init__(
        self, folder: Path, options: Options, processes, made_from: dict, model, optimizer, scaler, resume, total: int
    ):
        self.folder, self.options, self.processes = folder, options, processes
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.at = self._go_on(made_from) if resume else Progress(made_from)
        if self.at.step > total:
            raise ValueError(
                f"--epochs {options.epochs} ends at step {total}, {folder} is at step {self.at.step} already; give more"
            )
        tracker = minibert.open_tracker(options.track if processes.first else "none", folder, self.at.step)
        self.log = minibert.RunLog(folder if processes.first else None, options.log_every, self.at.log, tracker)
        self.saved = time.monotonic()
        if processes.first:
            write_options(options, folder)

    def _go_on(self, made_from: dict[str, str]) -> Progress:
        folder = self.folder / "checkpoint"
        first = self.processes.first
        saved = minibert.load_checkpoint(folder, self.model, self.optimizer, self.scaler, set_aside=first)
        if saved is None:
            if self.processes.first:
                print(f"{self.folder}: no checkpoint yet, starting from the first step", file=sys.stderr)
            return Progress(made_from)
        for name, now in made_from.items():
            if saved["made_from"][name] != now:
                raise minibert.CheckpointError(
                    f"{folder}: made from another {name}, its fingerprint is {saved['made_from'][name][:12]} and not "
                    f"{now[:12]}; go on with the {name} that the run was started with, or start another --output"
                )
        return Progress(**saved)

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether --checkpoint-every, be it steps or minutes, is over."""
        every = self.options.checkpoint_steps
        late = time.monotonic() - self.saved > self.options.checkpoint_seconds
        return late or (every > 0 and self.at.step % every == 0)

    def checkpoint(self) -> None:
        if self.processes.first:
            self.at.log = self.log.state()
            progress, keep = dataclasses.asdict(self.at), self.options.keep
            folder = self.folder / "checkpoint"
            minibert.save_checkpoint(folder, self.model, self.optimizer, self.scaler, progress, keep)
            self.saved = time.monotonic()

    def steps(self, steps: list[Step], train: squad.Dataset, bar: tqdm) -> None:
        """Wait for these steps, log them, move the bar.

        Raises ValueError when a loss or, but for those that float16's scaler skips, a gradient is not finite, and
        when the adapter is after 50 steps what it was at the start.
        """
        losses = self.processes.sum(torch.stack([step.loss for step in steps])).tolist()
        for step, loss in zip(steps, losses, strict=True):
            norm = float(step.norm)
            skipped = self.scaler.is_enabled() and not math.isfinite(norm)
            if not (math.isfinite(loss) and (math.isfinite(norm) or skipped)):
                ids = ", ".join(train.examples[i].id for i in train.windows.example[step.rows])
                raise ValueError(
                    f"step {step.number}: the loss is {loss}, the gradient's norm {norm} on the questions {ids}; "
                    "try a lower --learning-rate"
                )
            self.at.step, self.at.skipped = step.number, self.at.skipped + skipped
            figures = {"grad_norm": None if skipped else norm, "skipped": self.at.skipped, "lr": step.learning_rate}
            self.log.step(step.number, loss, len(step.rows), epoch=step.epoch, **figures)
            bar.update(len(step.rows))
        bar.set_postfix(loss=f"{self.log.loss:.3f}", lr=f"{steps[-1].learning_rate:.1e}", refresh=False)
        if steps[0].number <= 50 <= self.at.step:
            self._check_moved()

    def _check_moved(self) -> None:
        if self.options.lora_rank and not lora.has_moved(self.model):
            raise ValueError(
                f"the adapter has not moved in {self.at.step} steps, {self.at.skipped} of them skipped: every lora_B "
                f"is still zero. Either --learning-rate {self.options.learning_rate:g} is too low for float32, or "
                "every step was skipped (--precision bf16 and fp32 skip none), or no gradient reaches it"
            )

    def evaluation(self, step: int, epoch: float, metrics: dict, bar: tqdm) -> None:
        """Log it, and say how it did."""
        shown = squad.headline(metrics)
        figures = {"step": step, "epoch": epoch, "exact": shown["exact"], "f1": shown["f1"]}
        figures["dev_loss"] = metrics["loss"]
        self.at.evaluated = step  # now, as the checkpoint that follows must say so
        self.at.evaluations.append(figures)
        self.at.best = max(self.at.evaluations, key=lambda evaluation: evaluation["f1"])
        self.log.write(**figures)
        self.log.restart()
        better = self.at.best["step"] < step
        best = f"; the best so far was step {self.at.best['step']}, F1 {self.at.best['f1']:.2f}" if better else ""
        bar.write(f"epoch {epoch:.2f}: dev EM {shown['exact']:.2f}, F1 {shown['f1']:.2f}{best}")
