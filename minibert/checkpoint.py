"""Interruptions: noticing one, and the state of a training run to a folder and back (no pickle)."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from minibert.config import CheckpointError
from minibert.files import whole_files

log = logging.getLogger("minibert")


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM is put into, to be looked at between steps; the second one kills."""
    caught: list[int] = []

    def note(number, frame):
        caught.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save_checkpoint(
    folder: str | Path, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, progress: dict, keep: int = 2
) -> None:
    """Write what trains (`requires_grad`), the optimizer's and scaler's state and `progress` to one new file.

    Args:
        progress: whatever JSON can hold that says where the run is, its `step` among it. Random states are not kept:
            a caller who seeds each step from its number needs none, and may go on with another number of processes.
        keep: how many files stay, the newest ones.
    The file holds a sha256 of itself, and appears under its name only when the disk has all of it. Raises OSError
    when it cannot be written; those written before are untouched then.
    """
    folder = Path(folder)
    tensors = {}
    for name, parameter in _trainable(model).items():
        tensors[f"model.{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    state = json.dumps({"progress": progress, "scaler": scaler.state_dict()})
    # under one key, as safetensors would write several in any order, and the same run shall give the same bytes
    metadata = {"checkpoint": json.dumps({"sha256": _digest(tensors, state), "state": state})}
    with whole_files(folder) as part:
        save_file(tensors, part / f"{progress['step']:08}.safetensors", metadata)
    for old in _newest_first(folder)[keep:]:
        old.unlink()


def load_checkpoint(
    folder: str | Path, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, set_aside: bool = True
) -> dict | None:
    """Undo save_checkpoint() on a model, optimizer and scaler built as they were then; returns `progress`.

    The newest whole file is taken; a damaged one is told on the `minibert` logger and, with set_aside, renamed, so that
    it does not count among those kept. None when there is no file.
    Raises CheckpointError when all are damaged, or it is another model's; OSError when the disk will not give one,
    which says nothing about what is in it.
    """
    files = _newest_first(Path(folder))
    for number, path in enumerate(files):
        try:
            tensors, state = _read(path)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s is damaged (%s); going back to the one before", path, error)
            continue
        _put_back(path, tensors, model, optimizer)
        if state["scaler"]:  # empty when it was made without float16
            scaler.load_state_dict(state["scaler"])
        for damaged in files[:number] if set_aside else []:
            damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
        return state["progress"]
    if files:
        raise CheckpointError(f"{folder}: no readable checkpoint, all {len(files)} are damaged")
    return None


def fingerprint(model: nn.Module) -> str:
    """A sha256 of the model's config but for its dropout, its parameters' shapes, and what does not train."""
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    config = dataclasses.replace(model.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    shapes = [f"{name} {tuple(parameter.shape)}" for name, parameter in model.named_parameters()]
    return _digest(frozen, "\n".join([str(config), *shapes]))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.safetensors"), key=lambda path: path.name, reverse=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    with safe_open(path, framework="pt") as file:
        written = json.loads((file.metadata() or {})["checkpoint"])
    tensors = load_file(path)
    if written["sha256"] != _digest(tensors, written["state"]):
        raise ValueError("not what was written")
    return tensors, json.loads(written["state"])


def _put_back(path: Path, tensors: dict[str, Tensor], model: nn.Module, optimizer: Optimizer) -> None:
    trainable = _trainable(model)
    saved = {key.removeprefix("model."): t.shape for key, t in tensors.items() if key.startswith("model.")}
    if saved != {name: parameter.shape for name, parameter in trainable.items()}:
        raise CheckpointError(f"{path}: saved from a model whose trainable parameters differ from this one's")
    for name, parameter in trainable.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"model.{name}"])
        keys = [key for key in tensors if key.startswith("optimizer.") and key.endswith(f".{name}")]
        # "step" stays on the CPU, as AdamW keeps it; the moments go where the parameter is
        moments = {key.split(".")[1]: tensors[key] for key in keys if key.split(".", 2)[2] == name}
        if moments:
            optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter) for k, v in moments.items()}


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
