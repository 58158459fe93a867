"""Safetensors into a model: names and shapes are compared with what the model wants before anything is allocated.

A model describes its file format with one function, `canonical`: the key in the file -> the name the model uses for
this tensor, or None for a tensor that the model has no use for.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minihub.files import CheckpointError, json_type, read_object

Canonical = Callable[[str], str | None]


def tensor_shapes(folder: Path, canonical: Canonical) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> (shape, type in safetensors' spelling) of every tensor that the model uses; no tensor is read.

    Raises CheckpointError when a file is unreadable, or two keys have the same name.
    """
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in _weight_files(folder):
        with _open(path) as file:
            for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                name, part = canonical(key), file.get_slice(key)
                if name is None:
                    continue
                if name in found:
                    raise CheckpointError(f"{path}: holds {name} twice, the second time as {key}")
                found[name] = (tuple(part.get_shape()), part.get_dtype())
    return found


def check_tensors(
    folder: Path,
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[tuple[int, ...], str]],
    optional: Collection[str] = (),
) -> None:
    """Compare what the model wants (name -> shape) with what `tensor_shapes` found.

    Args: optional: names that may be missing, all of them or none.
    Raises CheckpointError that lists everything missing, unexpected, of another shape or not floating point.
    """
    allowed = set() if set(optional) & found.keys() else set(optional)
    both = sorted(wanted.keys() & found.keys())
    problems = {
        "missing": sorted(wanted.keys() - found.keys() - allowed),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": [f"{k} {found[k][0]} instead of {wanted[k]}" for k in both if found[k][0] != wanted[k]],
        "not floating point": [f"{k} {found[k][1]}" for k in both if not found[k][1].startswith(("F", "BF"))],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(_few(names))}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{folder}: the weights do not fit config.json. {listed}")


def copy_tensors(folder: Path, canonical: Canonical, state: Mapping[str, Tensor]) -> None:
    """Copy the file's tensors into those of `state`, by name, converting them to its dtypes.

    Raises CheckpointError when a tensor holds NaN or infinity.
    """
    for path in _weight_files(folder):
        with _open(path) as file, torch.no_grad():
            for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                name = canonical(key)
                if name not in state:
                    continue
                tensor = file.get_tensor(key)
                if not all_finite(tensor):
                    raise CheckpointError(f"{folder}: {key} holds NaN or infinity, expected finite weights")
                state[name].copy_(tensor)


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite.

    A finite float64 sum means that all elements are finite, and is ten times faster than checking each.
    """
    return bool(tensor.sum(dtype=torch.float64).isfinite())


@contextlib.contextmanager
def _open(path: Path) -> Iterator:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _weight_files(folder: Path) -> list[Path]:
    """model.safetensors, or the shards that its index lists."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise CheckpointError(f"{folder}: neither model.safetensors nor {index.name}; pickled weights are not read")
    shards = read_object(index, CheckpointError).get("weight_map")
    if not isinstance(shards, dict):
        raise CheckpointError(f"{index}: weight_map is {json_type(shards)}, expected an object")
    for shard in shards.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{index}: shard {str(shard)[:60]!r} is not a plain file name")
    return [folder / shard for shard in sorted(set(shards.values()))]


def _few(names: list[str], limit: int = 8) -> list[str]:
    return names if len(names) <= limit else [*names[:limit], f"and {len(names) - limit} more"]
