"""Interruptions: noticing one, and the state of a training run to a folder and back (no pickle)."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from minibert.config import CheckpointError


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM is put into, to be looked at between steps; the second one kills."""
    caught: list[int] = []

    def note(number, frame):
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save_checkpoint(
    folder: str | Path, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, progress: dict
) -> None:
    """Write what trains (`requires_grad`), the optimizer's and scaler's state and `progress`.

    Args: progress: whatever JSON can hold that says where the run is. Random states are not kept: a caller who
        seeds each step from its number needs none, and may go on with another number of processes.
    Written beside and renamed: an interrupted save leaves the previous checkpoint whole.
    """
    folder = Path(folder)
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    tensors = {}
    for name, parameter in _trainable(model).items():
        tensors[f"model.{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    save_file(tensors, new / "state.safetensors")
    state = {"progress": progress, "scaler": scaler.state_dict()}
    (new / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: str | Path, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> dict:
    """Undo save_checkpoint() on a model, optimizer and scaler built as they were then; returns `progress`.

    Raises CheckpointError when there is no readable checkpoint, or it is another model's.
    """
    folder = Path(folder)
    if not folder.exists():
        folder = folder.with_name(folder.name + ".old")  # killed between the two renames
    try:
        tensors = load_file(folder / "state.safetensors")
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: no readable checkpoint ({error})") from error
    trainable = _trainable(model)
    saved = {key.removeprefix("model."): t.shape for key, t in tensors.items() if key.startswith("model.")}
    if saved != {name: parameter.shape for name, parameter in trainable.items()}:
        raise CheckpointError(f"{folder}: saved from a model whose trainable parameters differ from this one's")
    for name, parameter in trainable.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"model.{name}"])
        keys = [key for key in tensors if key.startswith("optimizer.") and key.endswith(f".{name}")]
        # "step" stays on the CPU, as AdamW keeps it; the moments go where the parameter is
        moments = {key.split(".")[1]: tensors[key] for key in keys if key.split(".", 2)[2] == name}
        if moments:
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter) for k, v in moments.items()}
    scaler.load_state_dict(state["scaler"])
    return state["progress"]


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
