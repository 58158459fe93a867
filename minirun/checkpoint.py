"""The state of a training run in one safetensors file, and back (no pickle)."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from minihub import CheckpointError, atomic_write

log = logging.getLogger("minirun")


def save_checkpoint(
    folder: str | Path, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, progress: dict, keep: int = 2
) -> None:
    """Write what trains (`requires_grad`), the optimizer's and the scaler's state and `progress` to one new file.

    Args:
        progress: where the run is, anything that JSON can hold, with its `step`. Random states are not kept: a caller
            that seeds each step from its number needs none, and may continue with another number of processes.
        keep: how many checkpoints stay, the newest ones.
    The file contains a sha256 of its content. Raises OSError when it cannot be written; earlier ones stay as they are.
    """
    folder = Path(folder)
    tensors = {}
    for name, parameter in _trainable(model).items():
        tensors[f"model.{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    state = json.dumps({"progress": progress, "scaler": scaler.state_dict()})
    # One metadata key: safetensors writes several in a random order, and equal runs must write equal bytes.
    metadata = {"checkpoint": json.dumps({"sha256": _digest(tensors, state), "state": state})}
    with atomic_write(folder) as part:
        save_file(tensors, part / f"{progress['step']:08}.safetensors", metadata)
    for old in _newest_first(folder)[keep:]:
        old.unlink()


def load_checkpoint(
    folder: str | Path, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, set_aside: bool = True
) -> dict | None:
    """Restore what save_checkpoint() wrote into a model, optimizer and scaler built the same way; returns `progress`.

    The newest undamaged file is used; None is returned when there is no file. A damaged one causes a warning on the
    `minirun` logger and, with set_aside, is renamed, so that it no longer counts among those to keep.
    Raises CheckpointError when all are damaged or belong to another model; OSError when the disk fails to read one.
    """
    files = _newest_first(Path(folder))
    for number, path in enumerate(files):
        try:
            tensors, state = _read(path)
        except FileNotFoundError:  # damaged, and another process of this run has just set it aside
            continue
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s is damaged (%s); using the one before", path, error)
            continue
        _restore(path, tensors, model, optimizer)
        if state["scaler"]:  # empty when it was written without float16
            scaler.load_state_dict(state["scaler"])
        for damaged in files[:number] if set_aside else []:
            damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
        return state["progress"]
    if files:
        raise CheckpointError(f"{folder}: no readable checkpoint, all {len(files)} are damaged")
    return None


def fingerprint(model: nn.Module, description: str) -> str:
    """A sha256 of the model's frozen parameters, the shapes of all, and a description of what they do not show.

    Args: description: such as the config, without what may change when a run is resumed.
    """
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    shapes = [f"{name} {tuple(parameter.shape)}" for name, parameter in model.named_parameters()]
    return _digest(frozen, "\n".join([description, *shapes]))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9]*.safetensors"), key=lambda path: path.name, reverse=True)


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    with safe_open(path, framework="pt") as file:
        written = json.loads((file.metadata() or {})["checkpoint"])
    tensors = load_file(path)
    if written["sha256"] != _digest(tensors, written["state"]):
        raise ValueError("its sha256 does not match its content")
    return tensors, json.loads(written["state"])


def _restore(path: Path, tensors: dict[str, Tensor], model: nn.Module, optimizer: Optimizer) -> None:
    trainable = _trainable(model)
    saved = {key.removeprefix("model."): t.shape for key, t in tensors.items() if key.startswith("model.")}
    if saved != {name: parameter.shape for name, parameter in trainable.items()}:
        raise CheckpointError(f"{path}: saved from a model whose trainable parameters differ from this one's")
    for name, parameter in trainable.items():
        with torch.no_grad():
            parameter.copy_(tensors[f"model.{name}"])
        keys = [key for key in tensors if key.startswith("optimizer.") and key.split(".", 2)[2] == name]
        moments = {key.split(".")[1]: tensors[key] for key in keys}
        if moments:  # AdamW keeps its "step" on the CPU, the others beside the parameter
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
