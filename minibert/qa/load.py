"""From a name (a run, an adapter, a checkpoint) to a model that answers."""

from pathlib import Path

from tokenizers import Tokenizer

import lora
import minibert
import squad
from minibert.qa.onnx import check_onnx, write_onnx
from minihub import atomic_write, check_fit, write_json
from minirun import choose_device, choose_precision, prepare_frozen
from squad.windowing import MAX_LENGTH, MAX_QUESTION, OVERLAP

SHIPPED = Path(__file__).parent / "adapter"
HEAD = "qa_outputs"


def load_reader(
    model: str | Path = SHIPPED, revision: str = "", device: str = "auto", precision: str = "auto", **settings
) -> squad.Reader:
    """A reader for a trained model, with the threshold, temperature and window sizes that it was saved with.

    Args:
        model: a run of train.py, an adapter, an exported folder, or any local or hub BERT QA checkpoint
            (`deepset/bert-base-cased-squad2`); by default the adapter for MiniLM that comes with this package.
        revision: hub commit or tag of the checkpoint.
        device, precision: as train.py's options.
        settings: override the saved ones; see squad.Reader. `answerable=0.9` says that nine of ten questions have an
            answer in their text; the model answers more readily then.
    Raises ValueError or OSError (CheckpointError, AdapterError) that says what is wrong with the model.
    """
    bert, tokenizer, saved = load_model(model, revision)
    place = choose_device(device)
    dtype = choose_precision(precision, place)
    prepare_frozen(bert.to(place), dtype)
    settings = {**window_sizes(bert.config), **saved, **settings}
    check_fit(tokenizer, bert.config.vocab_size, bert.config.longest_sequence, settings["max_length"])
    return squad.Reader(bert, tokenizer, device=place, precision=dtype, **settings)


def window_sizes(config: minibert.BertConfig) -> dict[str, int]:
    """How to cut texts for a model that was saved without settings: as train.py does, but within its positions."""
    length = min(MAX_LENGTH, config.longest_sequence)
    return {
        "max_length": length,
        "window_overlap": min(OVERLAP, length // 3),
        "max_question_tokens": min(MAX_QUESTION, length // 4),
    }


def load_model(
    name: str | Path, revision: str = "", merged: bool = True
) -> tuple[minibert.BertForQuestionAnswering, Tokenizer, dict]:
    """The model in float32 with everything but its head frozen, its tokenizer, and its saved settings.

    Args: merged: merge an adapter into the weights; otherwise it stays beside them, two small products per layer.
    """
    folder = trained_part(Path(name))
    if any((folder / file).is_file() for file in ("adapter_config.json", "adapter_model.safetensors")):
        base, pinned, in_full = lora.base_of(folder)
        missing_head = "allow" if HEAD in in_full else "error"
        model = minibert.load_pretrained(base, revision or pinned, missing_head=missing_head)
        lora.load_adapter(model, folder, minibert.checkpoint_names(model.config), HEAD)
        if merged:
            lora.remove_lora(model)
        tokenizer = minibert.load_tokenizer(base, revision or pinned)
    else:
        source = folder if folder.is_dir() else name
        model = minibert.load_pretrained(source, revision or None, missing_head="error")
        tokenizer = minibert.load_tokenizer(source, revision or None)
    model.bert.requires_grad_(False)
    return model, tokenizer, squad.read_settings(folder / "qa.json")


def trained_part(folder: Path) -> Path:
    """The folder itself or, for a run of train.py, what it trained: its adapter/ or model/."""
    for part, file in (("adapter", "adapter_config.json"), ("model", "config.json")):
        if (folder / part / file).is_file():
            return folder / part
    if (folder / "checkpoint").is_dir() or (folder / "log.jsonl").is_file():
        raise ValueError(f"{folder}: this run has saved no model yet; continue it: python train.py --resume {folder}")
    return folder


def export(name: str | Path, folder: str | Path, revision: str = "", onnx: bool = False) -> str:
    """Write a plain checkpoint, an adapter merged in, that transformers can load too, with qa.json beside it.

    Args: name, revision: as for `load_reader`; onnx: write model.onnx too, see `write_onnx`.
    Returns what was written, in words. Raises ValueError when the folder is not empty, and what `load_model` raises.
    """
    if onnx:
        check_onnx()
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, choose another folder to export to")
    model, tokenizer, settings = load_model(name, revision)
    with atomic_write(folder) as part:
        minibert.save_pretrained(model, part)
        tokenizer.save(str(part / "tokenizer.json"))
        write_json(part / "qa.json", settings)
        difference = write_onnx(model.eval(), part / "model.onnx") if onnx else None
    added = f", model.onnx in it (largest difference of a logit from PyTorch's: {difference:.0e})" if onnx else ""
    return f"exported to {folder}{added}"
