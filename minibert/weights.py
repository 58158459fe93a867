"""Weights between safetensors files and the model: a table of names, then strict equality of names and shapes."""

import logging
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from minibert.config import BertConfig, NoHeadError
from minibert.families import BERT_EMBEDDINGS, Family
from minibert.model import Bert, BertForQuestionAnswering
from minihub import atomic_write, check_tensors, copy_tensors, find_model, tensor_shapes, write_json

HEAD = ("qa_outputs.weight", "qa_outputs.bias")
LEGACY = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # in checkpoints of 2018

log = logging.getLogger("minibert")


def checkpoint_names(config: BertConfig) -> dict[str, str]:
    """Names of BertForQuestionAnswering's modules -> the checkpoint's: every linear, embedding and norm once."""
    family = config.family
    names = {"qa_outputs": "qa_outputs"}
    for ours, theirs in BERT_EMBEDDINGS.items():
        if ours != "token_type" or family.segments:
            names[f"bert.embeddings.{ours}"] = f"{family.prefix}{theirs}"
    for i in range(config.num_hidden_layers):
        for ours, theirs in family.layer_names.items():
            names[f"bert.layers.{i}.{ours}"] = f"{family.prefix}{family.layers}.{i}.{theirs}"
    return names


def load_encoder(name_or_path: str | Path, revision: str | None = None, dropout: float | None = None) -> Bert:
    """Load the encoder of a checkpoint of BERT or a relative, in float32 and eval mode; any head is left out.

    Args, errors: as for `load_pretrained`.
    """
    folder, config = _find(name_or_path, revision, dropout)
    canonical = _canonical(config.family, unused=(*config.family.unused, "qa_outputs.", "classifier."))
    wanted = {name: shape for name, shape in checkpoint_shapes(config).items() if name not in HEAD}
    check_tensors(folder, wanted, tensor_shapes(folder, canonical))
    model = Bert(config)
    names = {ours.removeprefix("bert."): theirs for ours, theirs in checkpoint_names(config).items()}
    copy_tensors(folder, canonical, _named_tensors(model, names))
    return model.eval()


def load_pretrained(
    name_or_path: str | Path, revision: str | None = None, dropout: float | None = None, missing_head: str = "warn"
) -> BertForQuestionAnswering:
    """Load a checkpoint of BERT or a relative for question answering, in float32 and eval mode.

    Args:
        name_or_path: a folder with config.json and safetensors, `minilm`, or a hub id (see `find_model`).
        revision: a hub commit or tag.
        dropout: replaces both rates of config.json.
        missing_head: what to do about a checkpoint without a QA head, as all pretrained ones are. `warn`: draw a random
            one and warn on the `minibert` logger that it must be trained; `allow`: the same without the warning;
            `error`: raise NoHeadError. Raises ValueError for another word.
    Raises CheckpointError when files are missing or broken; of tensors that are missing, unexpected or of another shape
    it lists every one, before anything is allocated, as config.json may ask for any size.
    """
    if missing_head not in ("warn", "allow", "error"):
        raise ValueError(f"missing_head is {missing_head!r}, expected warn, allow or error")
    folder, config = _find(name_or_path, revision, dropout)
    canonical = _canonical(config.family, config.family.unused)
    found = tensor_shapes(folder, canonical)
    check_tensors(folder, checkpoint_shapes(config), found, optional=HEAD)
    has_head = HEAD[0] in found
    if missing_head == "error" and not has_head:
        raise NoHeadError(f"{name_or_path}: has no QA head (qa_outputs), so it cannot answer yet: train it first")
    if missing_head == "warn" and not has_head:
        log.warning("%s has no QA head: qa_outputs is newly initialised and must be trained", name_or_path)
    model = BertForQuestionAnswering(config)
    copy_tensors(folder, canonical, _named_tensors(model, checkpoint_names(config)))
    return model.eval()


def save_pretrained(model: BertForQuestionAnswering, folder: str | Path) -> None:
    """Write config.json and model.safetensors, as transformers' AutoModelForQuestionAnswering.from_pretrained reads.

    Raises ValueError when the model has other parameters than a plain one, such as an adapter that is not merged;
    OSError when they cannot be written, and then what was in the folder before is unchanged.
    """
    tensors = _named_tensors(model, checkpoint_names(model.config))
    state = {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    with atomic_write(folder) as part:
        write_json(part / "config.json", model.config.to_dict())
        save_file(state, part / "model.safetensors", metadata={"format": "pt"})


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


def _find(name_or_path: str | Path, revision: str | None, dropout: float | None) -> tuple[Path, BertConfig]:
    folder = find_model(name_or_path, revision)
    config = BertConfig.from_json(folder / "config.json")
    return folder, config if dropout is None else config.with_dropout(dropout)


def _named_tensors(model: Bert | BertForQuestionAnswering, names: dict[str, str]) -> dict[str, Tensor]:
    """The checkpoint's names -> the model's own tensors."""
    tensors = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        module, _, parameter = key.rpartition(".")
        if module not in names:
            raise ValueError(
                f"{key} is not a parameter of a plain {type(model).__name__}; if it is LoRA's, lora.remove_lora(model) "
                "merges the updates and takes their layers out"
            )
        tensors[f"{names[module]}.{parameter}"] = tensor
    return tensors


def _canonical(family: Family, unused: tuple[str, ...]) -> Callable[[str], str | None]:
    """See minihub.tensors: any spelling of a key -> the one of today's checkpoints with the family's prefix."""

    def canonical(key: str) -> str | None:
        for old, new in LEGACY.items():
            key = key.removesuffix(old) + new if key.endswith(old) else key
        if key.removeprefix(family.prefix).startswith((*unused, "embeddings.position_ids")):
            return None
        return key if key.startswith((family.prefix, "qa_outputs.")) else f"{family.prefix}{key}"

    return canonical
