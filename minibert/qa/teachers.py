"""Trained models as teachers of a new one: load them, and ask them about the windows that it trains on."""

import torch
from tokenizers import Tokenizer

import squad
from minibert.qa.load import load_model
from minirun import Processes, autocast, fingerprint, prepare_frozen, progress_bar
from squad.teach import SoftTargets, soft_targets


def ask_teachers(
    names: str,
    windows: squad.Windows,
    tokenizer: Tokenizer,
    device: torch.device,
    dtype: torch.dtype,
    processes: Processes,
) -> tuple[SoftTargets | None, dict[str, str]]:
    """What the teachers say about each window, None without teachers; and a fingerprint of each teacher's weights.

    Args:
        names: runs of train.py, adapters, folders or hub ids, with commas between them; "" for none.
        tokenizer: the new model's, which made the windows.
        device, dtype, processes: where and how to compute; the main process shows its progress.
    Raises ValueError when a teacher has another vocabulary, or fewer positions than a window has tokens; and as
    `load_model`.
    """
    if not names:
        return None, {}
    models, fingerprints = [], {}
    for name in (name.strip() for name in names.split(",")):
        model, own, _ = load_model(name)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ValueError(f"teacher {name} has another vocabulary than the model to train: its ids mean other words")
        longest = max(windows.lengths, default=0)
        if model.config.longest_sequence < longest:
            raise ValueError(
                f"teacher {name} reads at most {model.config.longest_sequence} tokens, the longest window has "
                f"{longest}: give a lower --max-length"
            )
        model.requires_grad_(False).eval()
        fingerprints[f"teacher {name}"] = fingerprint(model, str(model.config))
        prepare_frozen(dtype, model.to(device))
        models.append(model)
    progress = progress_bar("ask teachers", shown=processes.is_main)
    with autocast(device, dtype):
        return soft_targets(models, windows, device, progress), fingerprints
