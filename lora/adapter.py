"""Adapters on disk in PEFT's layout: adapter_config.json and adapter_model.safetensors, without the peft package.

A LoRA matrix is stored as `base_model.model.<module>.lora_A.weight`, a parameter that is trained in full (a QA head) as
`base_model.model.<module>.weight`, where <module> is the name that the base checkpoint gives to the module.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora.inject import check_plain, freeze, lora_layers, wrap
from lora.linear import LoRALinear
from minihub import all_finite, atomic_write, is_number, read_object, write_json

PREFIX = "base_model.model."
# Fields of adapter_config.json that do not change how the stored tensors act on the base.
NEUTRAL = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "eva_config", "modules_to_save",
    "peft_version", "qalora_group_size", "revision", "target_modules", "exclude_modules", "task_type",
    "layers_to_transform", "layers_pattern", "megatron_core", "r", "rank_pattern",
    "fan_in_fan_out",  # whether the base stores its matrices as (in, out); A and B are the same either way
}  # fmt: skip
BASE_UNCHANGED = {"gaussian", "eva", "orthogonal"}  # of PEFT's ways to start A and B; pissa and others change W as well
READ = {"peft_type", "bias", "lora_alpha", "alpha_pattern", "lora_dropout", "use_rslora"}

log = logging.getLogger("lora")


class AdapterError(ValueError):
    """An adapter cannot be used on this model; the message says why."""


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    names: Mapping[str, str] | None = None,
    task_type: str | None = None,
    base_model: str | None = None,
    revision: str = "",
    fan_in_fan_out: bool = False,
) -> None:
    """Write what trains (`requires_grad`) as a PEFT adapter.

    Args:
        names: our module names -> those of the base checkpoint (`minibert.checkpoint_names(config)`); None: the same.
        task_type: PEFT's name for the task, such as QUESTION_ANS; it decides what PEFT wraps around the base.
        base_model, revision: of the base, kept in the file for whoever loads it.
        fan_in_fan_out: whether the base checkpoint stores the adapted matrices as (in, out), as GPT-2's do: PEFT must
            know it to merge.
    Raises ValueError when the model has no LoRA layers, some of them do not train, or what trains is not in names.
    """
    layers = dict(lora_layers(model))
    if not layers:
        raise ValueError("the model has no LoRA layers: add_lora() first, or save the whole model")
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    for name in layers:
        if not {f"{name}.lora_A", f"{name}.lora_B"} <= trained.keys():
            raise ValueError(
                f"the update of {name} does not train, and only what trains is saved: lora.freeze(model, head) "
                "makes all updates and the head train, and nothing else"
            )
    names = _same_names(model) if names is None else names
    unnamed = [key for key in trained if key.rpartition(".")[0] not in names]
    if unnamed:
        raise ValueError(f"{unnamed[0]} trains, but names has no name of the base checkpoint for its module")
    state = {PREFIX + _stored_key(key, names): p.detach().cpu().contiguous() for key, p in trained.items()}
    in_full = {key.rpartition(".")[0] for key in trained} - layers.keys()
    config = {
        "peft_type": "LORA",
        "task_type": task_type,
        **_layer_fields({names[name]: layer for name, layer in layers.items()}, names),
        "modules_to_save": sorted(names[name] for name in in_full) or None,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "base_model_name_or_path": base_model,
        "revision": revision or None,
    }
    with atomic_write(folder) as part:
        save_file(state, part / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(part / "adapter_config.json", config)


def _layer_fields(layers: Mapping[str, LoRALinear], names: Mapping[str, str]) -> dict:
    """The fields about these layers, given by stored name: the commonest r and alpha, the others as patterns."""
    ranks = {name: layer.rank for name, layer in layers.items()}
    alphas = {name: layer.alpha for name, layer in layers.items()}
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    # The name within a layer keeps the list short, unless it also matches a module that is not wrapped.
    targets = sorted({re.split(r"\.\d+\.", name)[-1] for name in layers})
    matched = {name for name in names.values() if any(name == t or name.endswith("." + t) for t in targets)}
    return {
        "r": r,
        "lora_alpha": alpha,
        "lora_dropout": max(layer.dropout.p for layer in layers.values()),
        "target_modules": targets if matched == set(layers) else sorted(layers),
        "rank_pattern": {name: value for name, value in ranks.items() if value != r},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
    }


def load_adapter(
    model: nn.Module, folder: str | Path, names: Mapping[str, str] | None = None, head: str | None = None
) -> list[str]:
    """Wrap the layers that a PEFT adapter adapts, load it and freeze the rest, as add_lora() does.

    Args: names: as for `save_adapter`. head: as for `add_lora`. The model must be the adapter's base, without LoRA
        layers.
    Returns the dotted names of the wrapped layers. When the adapter does not hold the head, a warning on the `lora`
    logger says so and the model keeps its own.
    Raises AdapterError for unreadable files, an unsupported kind of adapter, or one that was made for another base;
    ValueError when the model has LoRA layers already; AttributeError when there is no module called `head`.
    """
    check_plain(model, head)
    config, state = _read(Path(folder))
    _check_supported(config)
    names = _same_names(model) if names is None else names
    ours = {stored: name for name, stored in names.items()}
    modules = dict(model.named_modules())
    pairs, in_full = _sort_tensors(state, ours, modules)
    alphas = {name: _alpha(config, names[name]) for name in pairs}
    for name, (A, B) in pairs.items():
        rank, alpha = len(A), alphas[name]
        # rsLoRA (Kalajdzievski 2023, eq. 4): s = alpha / sqrt(r)
        alpha = alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
        layer = wrap(model, name, rank, alpha, config.get("lora_dropout") or 0.0)
        with torch.no_grad():
            layer.lora_A.copy_(A)
            layer.lora_B.copy_(B)
    with torch.no_grad():
        for name, tensor in in_full.items():
            model.get_parameter(name).copy_(tensor)
    if head is not None and not any(name.startswith(f"{head}.") for name in in_full):
        log.warning("%s does not hold the head %s: the base model's own is used", folder, head)
    freeze(model, head)
    return list(pairs)


def base_of(folder: str | Path) -> tuple[str, str, set[str]]:
    """What an adapter was made for: its base model's name, the revision ("" for none), and the stored names of the
    modules that it holds in full.

    Raises AdapterError when it is unreadable or does not name a base.
    """
    config, state = _read(Path(folder))
    base, revision = config.get("base_model_name_or_path"), config.get("revision") or ""
    if not isinstance(base, str) or not base or not isinstance(revision, str):
        raise AdapterError(
            f"{folder}/adapter_config.json: base_model_name_or_path is {str(base)[:60]!r}, revision "
            f"{str(revision)[:60]!r}, expected the names of the base model and its revision"
        )
    if ".." in Path(base).parts or "\0" in base:
        raise AdapterError(
            f"{folder}/adapter_config.json: base_model_name_or_path is {base[:60]!r}, which leads out of the folder; "
            "expected a hub id, minilm, or the full path of a folder"
        )
    modules = {key.removeprefix(PREFIX).rpartition(".")[0] for key in state}
    return base, revision, {name for name in modules if not name.endswith((".lora_A", ".lora_B"))}


def _read(folder: Path) -> tuple[dict, dict[str, Tensor]]:
    config = read_object(folder / "adapter_config.json", AdapterError)
    path = folder / "adapter_model.safetensors"
    try:
        state = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"{path}: not a readable safetensors file ({error})") from error
    for key, tensor in state.items():
        if not tensor.is_floating_point():
            raise AdapterError(f"{path}: {key} is {tensor.dtype}, expected floating point")
        if not all_finite(tensor):
            raise AdapterError(f"{path}: {key} holds NaN or infinity, expected finite weights")
    return config, state


def _check_supported(config: dict) -> None:
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"adapter: peft_type is {config.get('peft_type')!r}, only 'LORA' is supported")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"adapter: bias is {config['bias']!r}, only 'none' is supported")
    unsupported = sorted(field for field, value in config.items() if value and field not in NEUTRAL | READ)
    if unsupported:
        shown = ", ".join(f"{field}={config[field]!r}" for field in unsupported)
        raise AdapterError(f"adapter: {shown} not supported, only plain LoRA and rsLoRA are")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start not in BASE_UNCHANGED:
        raise AdapterError(f"adapter: init_lora_weights is {start!r}, which changes the base's weights too; convert it "
                           "with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)")  # fmt: skip
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise AdapterError(f"adapter: alpha_pattern is a {type(patterns).__name__}, expected an object")
    numbers = {"lora_alpha": config.get("lora_alpha"), "lora_dropout": config.get("lora_dropout") or 0.0}
    for name, value in (numbers | {f"alpha_pattern {key!r}": value for key, value in patterns.items()}).items():
        if not is_number(value):
            raise AdapterError(f"adapter: {name} is {value!r}, expected a number")
        if not (0 <= value < 1 if name == "lora_dropout" else value > 0):
            expected = "at least 0 and below 1" if name == "lora_dropout" else "a number above 0"
            raise AdapterError(f"adapter: {name} is {value!r}, expected {expected}")


def _sort_tensors(
    state: dict[str, Tensor], ours: Mapping[str, str], modules: Mapping[str, nn.Module]
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Stored tensors -> {module: (A, B)} and {parameter: tensor}; every shape is compared with the model's."""
    matrices: dict[str, dict[str, Tensor]] = {}
    in_full: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in state.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+?)\.(lora_A\.weight|lora_B\.weight|weight|bias)", key)
        name = ours.get(match[1]) if match else None
        if name in modules and match[2].startswith("lora_"):
            matrices.setdefault(name, {})[match[2][:6]] = tensor
        elif name in modules and getattr(modules[name], match[2], None) is not None:
            in_full[f"{name}.{match[2]}"] = tensor
        else:
            unknown.append(key)
    if unknown:
        raise AdapterError(f"adapter: {len(unknown)} tensors fit no layer of this model, the first {unknown[0]!r}: "
                           "it was made for another base model")  # fmt: skip
    if not matrices:
        raise AdapterError("adapter: no lora_A and lora_B in adapter_model.safetensors")
    for name, pair in matrices.items():
        _check_pair(name, pair, modules[name])
    for name, tensor in in_full.items():
        module, _, parameter = name.rpartition(".")
        if module in matrices:
            raise AdapterError(f"adapter: {module} is stored as lora_A and lora_B and in full, expected one of the two")
        _check_shape(name, tensor, getattr(modules[module], parameter).shape)
    return {name: (pair["lora_A"], pair["lora_B"]) for name, pair in matrices.items()}, in_full


def _check_pair(name: str, pair: dict[str, Tensor], linear: nn.Module) -> None:
    if not isinstance(linear, nn.Linear) or len(pair) < 2:
        found = f"only {', '.join(pair)}" if len(pair) < 2 else type(linear).__name__
        raise AdapterError(f"adapter: {name} needs lora_A and lora_B around a plain linear layer, found {found}")
    rank = pair["lora_A"].shape[0] if pair["lora_A"].dim() == 2 else 0
    _check_shape(f"{name}.lora_A", pair["lora_A"], (max(rank, 1), linear.in_features))
    _check_shape(f"{name}.lora_B", pair["lora_B"], (linear.out_features, rank))


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(expected):
        raise AdapterError(
            f"adapter: {name} is {tuple(tensor.shape)}, this model needs {tuple(expected)}: "
            "it was made for another base model"
        )


def _same_names(model: nn.Module) -> dict[str, str]:
    return {name: name for name, _ in model.named_modules()}


def _stored_key(key: str, names: Mapping[str, str]) -> str:
    module, _, parameter = key.rpartition(".")
    suffix = f"{parameter}.weight" if parameter.startswith("lora_") else parameter
    return f"{names[module]}.{suffix}"


def _alpha(config: dict, stored_name: str) -> float:
    """lora_alpha of one layer: that of the first name in alpha_pattern that its name ends in, else the default.

    PEFT takes regular expressions there, and matching some of those never ends: only names are accepted.
    """
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if not re.fullmatch(r"(\w|\\?\.)+", pattern):
            raise AdapterError(f"adapter: alpha_pattern {pattern[:60]!r} is not a plain module name")
        name = pattern.replace("\\.", ".")
        if stored_name == name or stored_name.endswith(f".{name}"):
            return value
    return config["lora_alpha"]
