"""What a training run writes down as it goes, and where it continues: config.json, log.jsonl and checkpoints."""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from minihub import CheckpointError, atomic_write, only_writer, read_object, write_json
from minirun.checkpoint import load_checkpoint, save_checkpoint
from minirun.command import Command, changed_options, check_free
from minirun.log import RunLog
from minirun.processes import Processes
from minirun.track import open_tracker


class Step(NamedTuple):
    """An optimizer step that was taken. Its loss and norm may still be on their way from the GPU."""

    number: int  # counted from 1
    window_ids: np.ndarray
    lr: float
    loss: torch.Tensor  # this process's part
    grad_norm: torch.Tensor


@dataclass
class Progress:
    """How far a run is: with the weights and the optimizer's state, all that a checkpoint keeps."""

    fingerprints: dict[str, str]  # of the model and of the training windows, which a checkpoint must match
    step: int = 0
    skipped: int = 0  # steps that float16's scaler skipped; they do not move the schedule
    evaluated: int = 0  # the step of the last evaluation
    evaluations: list[dict] = field(default_factory=list)
    best: dict = field(default_factory=dict)
    log: dict = field(default_factory=dict)


class Record:
    """The record of one training run, a context manager. All processes call it at the same steps; the main one writes.

    Args:
        folder: the run's.
        model, optimizer, scaler: saved in checkpoints, and restored from the newest one when `resume` is true.
        config: the run's options, for config.json. Those about the run itself are used here: epochs, eval_every,
            log_every, checkpoint_every, keep and track.
        fingerprints: of the model and of the training data, by name.
        resume: continue from the newest undamaged checkpoint, or from the first step when there is none yet.
        sync_every: steps between two reads of the loss, since each read waits for the GPU.
        describe: window numbers -> how an error names them.
        unit: what the progress bar counts.
    Raises CheckpointError when all checkpoints are damaged or belong to another model or other data, ValueError when
    the run is already beyond its last epoch, is finished and was given other options, or the tracker cannot start.
    """

    def __init__(
        self,
        folder: Path,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        processes: Processes,
        config: dict,
        fingerprints: dict[str, str],
        resume: bool,
        steps_per_epoch: int,
        windows_per_epoch: int,
        sync_every: int,
        describe: Callable[[np.ndarray], str],
        unit: str = "windows",
    ):
        self.folder, self.processes, self.config = folder, processes, config
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.steps_per_epoch, self.total_steps = steps_per_epoch, steps_per_epoch * config["epochs"]
        self.sync_every, self.describe, self.unit = sync_every, describe, unit
        self.every_steps, self.every_seconds = _interval(config["checkpoint_every"])
        self.unread: list[Step] = []
        self.at = self._load(fingerprints) if resume else Progress(fingerprints)
        if self.at.step > self.total_steps:
            raise ValueError(f"{folder} is at step {self.at.step} of {self.total_steps} already; give more --epochs")
        if self.is_finished and self.at.evaluated == self.at.step and (changed := self._changed_options()):
            raise ValueError(
                f"{folder} is finished, so {', '.join(changed)} would change nothing but its record; "
                f"train on with more --epochs, or use --evaluate {folder}"
            )
        tracker = open_tracker(config["track"] if processes.is_main else "none", folder, self.at.step)
        self.log = RunLog(folder if processes.is_main else None, config["log_every"], self.at.log, tracker)
        self.saved_at = time.monotonic()
        self.windows = windows_per_epoch * config["epochs"]
        if processes.is_main:
            self._write_config()

    def __enter__(self) -> "Record":
        done = round(self.windows * self.at.step / self.total_steps)
        is_main = self.processes.is_main
        self.bar = tqdm(desc="train", total=self.windows, initial=done, unit=self.unit, disable=not is_main)
        return self

    def __exit__(self, *_) -> None:
        self.log.close()
        self.bar.close()

    @property
    def is_behind(self) -> bool:
        """Whether there are steps whose loss has not been read yet; nothing else should be done before."""
        return bool(self.unread)

    @property
    def is_finished(self) -> bool:
        return self.at.step == self.total_steps

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the last step ends an epoch or --eval-every, and has not been evaluated yet.

        A run that was killed during an evaluation is resumed from a checkpoint before it, so this is true at its start.
        """
        return self.at.evaluated < self.at.step and self._ends_interval(self.at.step)

    @property
    def checkpoint_is_due(self) -> bool:
        late = time.monotonic() - self.saved_at > self.every_seconds
        return late or self.at.step % self.every_steps == 0

    def add_step(self, step: Step) -> None:
        """Note a step; read all losses every `sync_every` steps and when something else is due.

        Raises ValueError when a loss or, unless float16's scaler skips it, a gradient is not finite.
        """
        self.unread.append(step)
        is_due = step.number % self.config["log_every"] == 0 or step.number % self.every_steps == 0
        if is_due or len(self.unread) == self.sync_every or self._ends_interval(step.number):
            self._read()

    def add_evaluation(self, dev_loss: float, exact: float | None = None, f1: float | None = None) -> None:
        """Log the figures of an evaluation after the last step, and print them; the best is that of the highest F1.

        Without exact and f1, as for a model that learns to write text, it is that of the lowest loss.
        """
        epoch, scored = self.at.step / self.steps_per_epoch, f1 is not None
        figures = {"step": self.at.step, "epoch": epoch, "exact": exact, "f1": f1, "dev_loss": dev_loss}
        figures = {name: value for name, value in figures.items() if value is not None}
        self.at.evaluated = self.at.step
        self.at.evaluations.append(figures)
        self.at.best = max(self.at.evaluations, key=lambda found: found["f1"] if scored else -found["dev_loss"])
        self.log.write(**figures)
        self.log.restart_clock()
        best = f"F1 {self.at.best['f1']:.2f}" if scored else f"loss {self.at.best['dev_loss']:.3f}"
        earlier = f"; the best so far was step {self.at.best['step']}, {best}"
        now = f"train loss {self.log.loss:.3f}, dev loss {dev_loss:.3f}"
        now += f", EM {exact:.2f}, F1 {f1:.2f}" if scored else ""
        self.bar.write(f"epoch {epoch:.2f}: {now}" + earlier * (self.at.best["step"] < self.at.step))

    def checkpoint(self) -> None:
        """Write a checkpoint of the run as it is after the last step."""
        if self.processes.is_main:
            self.at.log = self.log.state()
            progress, keep = dataclasses.asdict(self.at), self.config["keep"]
            save_checkpoint(self.folder / "checkpoint", self.model, self.optimizer, self.scaler, progress, keep)
        self.saved_at = time.monotonic()

    def _ends_interval(self, step: int) -> bool:
        every = self.config["eval_every"]
        return step % self.steps_per_epoch == 0 or (every > 0 and step % every == 0)

    def _read(self) -> None:
        """Wait for the losses of the unread steps, log them and move the bar."""
        losses = self.processes.sum(torch.stack([step.loss for step in self.unread])).tolist()
        for step, loss in zip(self.unread, losses, strict=True):
            norm = float(step.grad_norm)
            skipped = self.scaler.is_enabled() and not math.isfinite(norm)
            if not (math.isfinite(loss) and (math.isfinite(norm) or skipped)):
                raise ValueError(
                    f"step {step.number}: the loss is {loss}, the gradient's norm {norm}; try a lower --learning-rate. "
                    f"It was on {self.describe(step.window_ids)}"
                )
            self.at.step, self.at.skipped = step.number, self.at.skipped + skipped
            figures = {"grad_norm": None if skipped else norm, "skipped": self.at.skipped, "lr": step.lr}
            epoch = step.number / self.steps_per_epoch
            self.log.step(step.number, loss, len(step.window_ids), epoch=epoch, **figures)
            self.bar.update(len(step.window_ids))
        self.bar.set_postfix(loss=f"{self.log.loss:.3f}", lr=f"{self.unread[-1].lr:.1e}", refresh=False)
        self.unread = []

    def _write_config(self) -> None:
        """Write config.json, and print which options have changed since the run was started."""
        if changed := self._changed_options():
            print(f"changed since the run was started: {', '.join(changed)}", file=sys.stderr)
        with atomic_write(self.folder) as part:
            write_json(part / "config.json", self.config)

    def _changed_options(self) -> list[str]:
        """Those that differ from the folder's config.json, as `--name old -> new`; none when there is no such file."""
        path = self.folder / "config.json"
        return list(changed_options(read_object(path), self.config).values()) if path.exists() else []

    def _load(self, fingerprints: dict[str, str]) -> Progress:
        folder, is_main = self.folder / "checkpoint", self.processes.is_main
        saved = load_checkpoint(folder, self.model, self.optimizer, self.scaler, set_aside=is_main)
        if saved is None:
            if is_main:
                print(f"{self.folder}: no checkpoint yet, starting from the first step", file=sys.stderr)
            return Progress(fingerprints)
        for name, now in fingerprints.items():
            before = saved["fingerprints"][name]
            if before != now:
                raise CheckpointError(
                    f"{folder}: this run was started with another {name} (fingerprint {before[:12]}, now {now[:12]}); "
                    f"resume it with that {name}, or start another --output"
                )
        return Progress(**saved)


@contextlib.contextmanager
def claim_folder(folder: Path, command: Command, processes: Processes) -> Iterator[None]:
    """Keep other processes than this run's from writing into the folder.

    Raises ValueError when one is writing there already, or when `check_free` does.
    """
    with only_writer(folder) if processes.is_main else contextlib.nullcontext():
        check_free(folder, command)
        processes.wait()  # until all have looked, as the main process will now write
        yield


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the random numbers (dropout) of one step of one process.

    As each step has its own, a resumed run needs no saved random state to continue as it would have.
    """
    return int(np.random.default_rng([seed, step, rank]).integers(2**63))


def _interval(every: str) -> tuple[float, float]:
    """`500` -> every 500 steps; `10m` -> every 600 seconds; as (steps, seconds), one of them infinite."""
    return (math.inf, 60.0 * int(every[:-1])) if every.endswith("m") else (int(every), math.inf)
