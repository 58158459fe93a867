"""Weights between safetensors files and the model: names, which matrices are stored transposed, strict equality."""

import re
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from minigpt.config import GPT2Config
from minigpt.model import GPT2LMHead
from minihub import atomic_write, check_tensors, copy_tensors, find_model, tensor_shapes, write_json

PREFIX = "transformer."
# GPT-2's files hold these as (in, out), as TensorFlow's Conv1D did; nn.Linear holds (out, in).
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
# The causal mask, which old files hold once a layer; and the head, which is the embedding matrix again.
UNUSED = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
HEAD = "lm_head.weight"


def checkpoint_names(config: GPT2Config) -> dict[str, str]:
    """Names of GPT2LMHead's modules -> the checkpoint's, which are the same: every linear, embedding and norm once."""
    layers = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    inside = [f"h.{i}.{name}" for i in range(config.n_layer) for name in layers]
    return {f"{PREFIX}{name}": f"{PREFIX}{name}" for name in ("wte", "wpe", *inside, "ln_f")}


def load_pretrained(name_or_path: str | Path, revision: str | None = None, dropout: float | None = None) -> GPT2LMHead:
    """Load a GPT-2 checkpoint, in float32 and eval mode.

    Args:
        name_or_path: a folder with config.json and safetensors, or a hub id such as `openai-community/gpt2` (see
            `find_model`).
        revision: a hub commit or tag.
        dropout: replaces the rates of config.json.
    Raises CheckpointError when files are missing or broken; of tensors that are missing, unexpected or of another shape
    it lists every one, before anything is allocated, as config.json may ask for any size.
    """
    folder = find_model(name_or_path, revision)
    config = GPT2Config.from_json(folder / "config.json")
    config = config if dropout is None else config.with_dropout(dropout)
    check_tensors(folder, checkpoint_shapes(config), tensor_shapes(folder, canonical))
    model = GPT2LMHead(config)
    copy_tensors(folder, canonical, stored_tensors(model))
    return model.eval()


def save_pretrained(model: GPT2LMHead, folder: str | Path) -> None:
    """Write config.json and model.safetensors, as transformers' GPT2LMHeadModel.from_pretrained reads them.

    Raises ValueError when the model has other parameters than a plain one, such as an adapter that is not merged;
    OSError when they cannot be written, and then what was in the folder before is unchanged.
    """
    state = {key: tensor.detach().contiguous() for key, tensor in stored_tensors(model).items()}
    with atomic_write(folder) as part:
        write_json(part / "config.json", model.config.to_dict())
        save_file(state, part / "model.safetensors", metadata={"format": "pt"})


def canonical(key: str) -> str | None:
    """See minihub.tensors: a key with or without `transformer.` -> the one with it; None for what is not used."""
    bare = key.removeprefix(PREFIX)
    return None if bare == HEAD or UNUSED.fullmatch(bare) else f"{PREFIX}{bare}"


def checkpoint_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The checkpoint's names of all weights and biases -> their shapes, (in, out) for those of TRANSPOSED."""
    H, I = config.n_embd, config.intermediate_size
    sizes = {"attn.c_attn": (H, 3 * H), "attn.c_proj": (H, H), "mlp.c_fc": (H, I), "mlp.c_proj": (I, H)}
    shapes: dict[str, tuple[int, ...]] = {
        f"{PREFIX}wte.weight": (config.vocab_size, H),
        f"{PREFIX}wpe.weight": (config.n_positions, H),
    }
    for name in checkpoint_names(config):
        within = re.sub(rf"{PREFIX}(h\.\d+\.)?", "", name)
        if within in sizes:
            shapes |= {f"{name}.weight": sizes[within], f"{name}.bias": sizes[within][1:]}
        elif within.startswith("ln"):
            shapes |= {f"{name}.weight": (H,), f"{name}.bias": (H,)}
    return shapes


def stored_tensors(model: GPT2LMHead) -> dict[str, Tensor]:
    """The checkpoint's names -> the model's own tensors, as views in the checkpoint's layout."""
    tensors = {}
    for key, tensor in model.state_dict(keep_vars=True).items():
        if key == HEAD:
            continue
        if key.rpartition(".")[0] not in checkpoint_names(model.config):
            raise ValueError(
                f"{key} is not a parameter of a plain {type(model).__name__}; if it is LoRA's, lora.remove_lora(model) "
                "merges the updates and takes their layers out"
            )
        tensors[key] = tensor.T if key.endswith(TRANSPOSED) else tensor
    return tensors
