"""Weights between safetensors files and the model: a table of names, then strict equality of keys and shapes."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minibert.config import BertConfig, CheckpointError
from minibert.hub import find_model
from minibert.model import BertForQuestionAnswering

# our name -> the checkpoint's name, less ".weight" / ".bias"
NAMES = {
    "qa_outputs": "qa_outputs",
    "bert.embeddings.word": "bert.embeddings.word_embeddings",
    "bert.embeddings.position": "bert.embeddings.position_embeddings",
    "bert.embeddings.token_type": "bert.embeddings.token_type_embeddings",
    "bert.embeddings.norm": "bert.embeddings.LayerNorm",
}
# the same within layer i, where ours is "bert.layers.i." and the checkpoint's "bert.encoder.layer.i."
LAYER_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
IGNORED_PREFIXES = ("cls.", "bert.pooler.")
IGNORED_KEYS = ("bert.embeddings.position_ids",)
LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

log = logging.getLogger("minibert")


def checkpoint_names(config: BertConfig) -> dict[str, str]:
    """Our module names -> the checkpoint's, every linear, embedding and norm of the model once."""
    layers = {
        f"bert.layers.{i}.{ours}": f"bert.encoder.layer.{i}.{theirs}"
        for i in range(config.num_hidden_layers)
        for ours, theirs in LAYER_NAMES.items()
    }
    return NAMES | layers


def load_pretrained(
    name_or_path: str | Path, revision: str | None = None, dropout: float | None = None, head: str = "new"
) -> BertForQuestionAnswering:
    """Load a BERT checkpoint (config.json and safetensors) in float32, in eval mode.

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
    model = BertForQuestionAnswering(config)
    wanted = _checkpoint_state(model)
    found = {}
    for key, tensor in _read_tensors(folder):
        name = _canonical(key)
        if not name.startswith(IGNORED_PREFIXES) and name not in IGNORED_KEYS:
            found[name] = tensor

    if head == "required" and "qa_outputs.weight" not in found:
        raise CheckpointError(f"{name_or_path}: has no QA head (qa_outputs), so it cannot answer yet: train it first")
    missing = sorted(wanted.keys() - found.keys() - {"qa_outputs.weight", "qa_outputs.bias"})
    if ("qa_outputs.weight" in found) != ("qa_outputs.bias" in found):
        missing.append("qa_outputs.weight or qa_outputs.bias")
    problems = {
        "missing": missing,
        "unexpected": sorted(found.keys() - wanted.keys()),
        "mis-shaped": [
            f"{k} {tuple(found[k].shape)} instead of {tuple(wanted[k].shape)}"
            for k in sorted(wanted.keys() & found.keys())
            if found[k].shape != wanted[k].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {', '.join(_few(keys))}" for kind, keys in problems.items() if keys)
        raise CheckpointError(f"{folder}: the weights do not fit config.json. {listed}")
    if head == "new" and "qa_outputs.weight" not in found:
        log.warning("%s has no QA head: qa_outputs is newly initialised and must be trained", name_or_path)
    with torch.no_grad():
        for key, tensor in found.items():
            wanted[key].copy_(tensor)
    return model.eval()


def save_pretrained(model: BertForQuestionAnswering, folder: str | Path) -> None:
    """Write config.json and model.safetensors, as transformers' BertForQuestionAnswering.from_pretrained loads.

    Raises ValueError when the model's parameters are not a plain BertForQuestionAnswering's (an adapter
    not yet merged away, say).
    """
    folder = Path(folder)
    state = {key: tensor.detach().contiguous() for key, tensor in _checkpoint_state(model).items()}
    folder.mkdir(parents=True, exist_ok=True)
    config = json.dumps(model.config.to_dict(), indent=2) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
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


def _canonical(key: str) -> str:
    """A key as files of any age and head spell it -> with `bert.` prefix and LayerNorm's weight and bias."""
    for old, new in LEGACY.items():
        key = key.removesuffix(old) + new if key.endswith(old) else key
    return key if key.startswith(("bert.", "cls.", "qa_outputs.")) else f"bert.{key}"


def _read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every (key, tensor) of model.safetensors, or of the shards that its index lists."""
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    yield key, file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        raise CheckpointError(f"{folder}: neither model.safetensors nor {index.name}; minibert reads no pickle")
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: not a safetensors index ({error!r})") from error
    for shard in shards:
        if Path(shard).name != shard:
            raise CheckpointError(f"{index}: shard {shard!r} is not a plain file name")
    return [folder / shard for shard in shards]


def _few(keys: list[str], limit: int = 8) -> list[str]:
    return keys if len(keys) <= limit else [*keys[:limit], f"and {len(keys) - limit} more"]
