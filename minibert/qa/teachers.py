"""Trained models as teachers of a new one: load them, and ask them about the windows that it trains on."""

import torch
from tokenizers import Tokenizer

import lora
import squad
from minibert import BertForQuestionAnswering
from minibert.qa.load import SHIPPED, load_model
from minihub import check_fit
from minirun import Processes, autocast, fingerprint, prepare_frozen, progress_bar
from squad.cache import cached
from squad.teach import TEMPERATURE, SoftTargets, soft_targets


def load_teachers(names: str, tokenizer: Tokenizer, max_length: int) -> dict[str, BertForQuestionAnswering]:
    """The models of these names, which must give the ids of `tokenizer` the same meaning and read `max_length` tokens.

    Args:
        names: runs of train.py, adapters, folders or hub ids, with commas between them; `shipped` is the adapter of
            this package. "" or `none` for none.
        tokenizer: the new model's, which makes the windows.
    Raises ValueError that names the teacher when it cannot be loaded or cannot read these windows.
    """
    each = [name.strip() for name in names.split(",")] if names not in ("", "none") else []
    if not all(each):
        raise ValueError(f"the teachers are {names!r}, expected names with commas between them")
    return {name: load_teacher(name, tokenizer, max_length) for name in each}


def load_teacher(name: str, tokenizer: Tokenizer, max_length: int) -> BertForQuestionAnswering:
    """The model of one name, checked as `load_teachers` promises."""
    try:
        model, own, _ = load_model(SHIPPED if name == "shipped" else name, merged=False)
        check_fit(own, model.config.vocab_size, model.config.longest_sequence, max_length)
    except ValueError as error:
        raise ValueError(f"teacher {name}: {error}") from error
    if own.get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"teacher {name}: it has another vocabulary than the model to train, so ids mean other words")
    return model.requires_grad_(False).eval()  # so that its fingerprint is of all weights, as they are on disk


def fingerprint_of(teacher: BertForQuestionAnswering) -> str:
    """Of all weights as they are on disk: merged ones would differ by rounding from machine to machine."""
    scales = [layer.scale for _, layer in lora.lora_layers(teacher)]
    return fingerprint(teacher, f"{teacher.config} {scales}")


def ask_teachers(
    teachers: dict[str, BertForQuestionAnswering],
    windows: squad.Windows,
    device: torch.device,
    dtype: torch.dtype,
    processes: Processes,
) -> tuple[SoftTargets | None, dict[str, str]]:
    """What the teachers say about each window, None without teachers; and a fingerprint of each teacher's weights.

    Asked again about the same windows, as by --resume, they are read from a cache: they take minutes to answer.

    Args: device, dtype, processes: where and how to compute; the main process shows its progress.
    """
    if not teachers:
        return None, {}
    fingerprints = {f"teacher {name}": fingerprint_of(model) for name, model in teachers.items()}
    progress = progress_bar("ask teachers", shown=processes.is_main)

    def ask() -> SoftTargets:
        for model in teachers.values():
            lora.remove_lora(model)
            model.qa_outputs.requires_grad_(True)  # stays in float32, as in training
            prepare_frozen(model.to(device), dtype)
        with autocast(device, dtype):
            return soft_targets(list(teachers.values()), windows, device, progress)

    parts = squad.fingerprint((), windows), f"{dtype} {TEMPERATURE}", *fingerprints.values()
    return cached(SoftTargets, ask, parts), fingerprints
