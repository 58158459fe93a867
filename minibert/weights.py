"""Weights between safetensors files and the model: a table of names, then strict equality of keys and shapes."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.config import BertConfig, CheckpointError, NoHeadError
from minibert.families import BERT_EMBEDDINGS, Family
from minibert.files import read_json, write_json
from minibert.hub import find_model
from minibert.model import BertForQuestionAnswering

LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

log = logging.getLogger("minibert")


def checkpoint_names(config: BertConfig) -> dict[str, str]:
    """Our module names -> the checkpoint's, every linear, embedding and norm of the model once."""
    family = config.family
    names = {"qa_outputs": "qa_outputs"}
    for ours, theirs in BERT_EMBEDDINGS.items():
        if ours != "token_type" or family.segments:
            names[f"bert.embeddings.{ours}"] = f"{family.prefix}{theirs}"
    for i in range(config.num_hidden_layers):
        for ours, theirs in family.layer_names.items():
            names[f"bert.layers.{i}.{ours}"] = f"{family.prefix}{family.layers}.{i}.{theirs}"
    return names


def load_pretrained(
    name_or_path: str | Path, revision: str | None = None, dropout: float | None = None, head: str = "new"
) -> BertForQuestionAnswering:
    """Load a checkpoint of BERT or a relative (config.json and safetensors) in float32, in eval mode.

    Args:
        name_or_path: a folder, `minilm`, or a hub id (see `find_model`).
        revision: a hub commit or tag.
        dropout: replaces both rates of config.json.
        head: what to do about a checkpoint without `qa_outputs` (one that has it keeps it). `new`: draw a head from
            normal(0, initializer_range) with torch's global generator, and warn on the `minibert` logger that
            it must be trained; `later`: draw it and say nothing, as an adapter will bring one; `required`: an error.
    Raises CheckpointError: files missing or broken, or keys missing, unexpected or mis-shaped, all listed.
    """
    folder = find_model(name_or_path, revision)
    config = BertConfig.from_json(folder / "config.json")
    if dropout is not None:
        config = replace(config, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    wanted, there = checkpoint_shapes(config), _read_headers(folder, config.family)
    _check_keys(folder, wanted, there)  # before anything is allocated: config.json may ask for any size
    has_head = "qa_outputs.weight" in there
    if head == "required" and not has_head:
        raise NoHeadError(f"{name_or_path}: has no QA head (qa_outputs), so it cannot answer yet: train it first")
    if head == "new" and not has_head:
        log.warning("%s has no QA head: qa_outputs is newly initialised and must be trained", name_or_path)
    model = BertForQuestionAnswering(config)
    state = _checkpoint_state(model)
    for key, tensor in _read_tensors(folder):
        name = _canonical(key, config.family)
        if name in state:
            if not tensor.sum(dtype=torch.float64).isfinite():  # of finite numbers it is; much faster than to ask each
                raise CheckpointError(f"{folder}: {key} holds NaN or infinity, expected finite weights")
            with torch.no_grad():
                state[name].copy_(tensor)
    return model.eval()


def checkpoint_shapes(config: BertConfig) -> dict[str, tuple[int, ...]]:
    """The checkpoint's names of all weights and biases -> their shapes."""
    H, I = config.hidden_size, config.intermediate_size
    rows = {"word": config.vocab_size, "position": config.max_position_embeddings, "token_type": config.type_vocab_size}
    sizes = {"intermediate": (I, H), "output": (H, I), "qa_outputs": (2, H)}  # (out, in)
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, theirs in checkpoint_names(config).items():
        name = ours.rpartition(".")[2]
        if name in rows:
            shapes[f"{theirs}.weight"] = (rows[name], H)
        else:
            out_in = sizes.get(name, (H, H))
            shapes[f"{theirs}.weight"] = (H,) if name.endswith("norm") else out_in
            shapes[f"{theirs}.bias"] = (out_in[0],)
    return shapes


def _check_keys(folder: Path, wanted: dict[str, tuple[int, ...]], there: dict[str, tuple[tuple, str]]) -> None:
    """Raises CheckpointError with all that is missing, unexpected, mis-shaped or no floating-point number.

    Args: wanted: name -> shape. there: name -> shape and safetensors' name of the type. A missing head is no mistake.
    """
    heads = {"qa_outputs.weight", "qa_outputs.bias"}
    missing = wanted.keys() - there.keys() - (set() if heads & there.keys() else heads)
    both = sorted(wanted.keys() & there.keys())
    problems = {
        "missing": sorted(missing),
        "unexpected": sorted(there.keys() - wanted.keys()),
        "mis-shaped": [f"{k} {there[k][0]} instead of {wanted[k]}" for k in both if there[k][0] != wanted[k]],
        "not of floating point": [f"{k} {there[k][1]}" for k in both if not there[k][1].startswith(("F", "BF"))],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(_few(keys))}" for kind, keys in problems.items() if keys)
        raise CheckpointError(f"{folder}: the weights do not fit config.json. {listed}")


def save_pretrained(model: BertForQuestionAnswering, folder: str | Path) -> None:
    """Write config.json and model.safetensors, as transformers' AutoModelForQuestionAnswering.from_pretrained loads.

    Raises ValueError when the model's parameters are not a plain BertForQuestionAnswering's (an adapter
    not yet merged away, say).
    """
    folder = Path(folder)
    state = {key: tensor.detach().contiguous() for key, tensor in _checkpoint_state(model).items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", model.config.to_dict())
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _checkpoint_state(model: BertForQuestionAnswering) -> dict[str, Tensor]:
    """The model's own tensors under the checkpoint's names."""
    names = checkpoint_names(model.config)
    state = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        module, _, parameter = key.rpartition(".")
        if module not in names:
            raise ValueError(f"{key} is no parameter of a plain BertForQuestionAnswering: merge adapters away first")
        state[f"{names[module]}.{parameter}"] = tensor
    return state


def _canonical(key: str, family: Family) -> str:
    """A key as files of any age and head spell it -> with the family's prefix and LayerNorm's weight and bias."""
    for old, new in LEGACY.items():
        key = key.removesuffix(old) + new if key.endswith(old) else key
    return key if key.startswith((family.prefix, "qa_outputs.")) else f"{family.prefix}{key}"


def _read_headers(folder: Path, family: Family) -> dict[str, tuple[tuple[int, ...], str]]:
    """The canonical name of every tensor that matters -> its shape and type, without reading it."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in _weight_files(folder):
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                name, part = _canonical(key, family), file.get_slice(key)
                if name.removeprefix(family.prefix).startswith((*family.unused, "embeddings.position_ids")):
                    continue
                if name in found:
                    raise CheckpointError(f"{path}: holds {name} twice, the second time as {key}")
                found[name] = (tuple(part.get_shape()), part.get_dtype())
    return found


def _read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every (key, tensor) of model.safetensors, or of the shards that its index lists."""
    for path in _weight_files(folder):
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                yield key, file.get_tensor(key)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise CheckpointError(f"{folder}: neither model.safetensors nor {index.name}; minibert reads no pickle")
    try:
        shards = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: not a safetensors index ({error!r})") from error
    for shard in shards:
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{index}: shard {shard!r} is not a plain file name")
    return [folder / shard for shard in shards]


def _few(keys: list[str], limit: int = 8) -> list[str]:
    return keys if len(keys) <= limit else [*keys[:limit], f"and {len(keys) - limit} more"]
