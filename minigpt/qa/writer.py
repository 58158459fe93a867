"""Writer: from a run of train_gpt.py to answers in the model's own words."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

import lora
import minigpt
import squad
from minihub import read_object
from minirun import autocast, choose_device, choose_precision, prepare_frozen
from squad.prompts import Prompts, collate_prompts, make_prompts
from squad.reader import pairs_of

ROWS = 16  # prompts answered together


@torch.no_grad()
def write_answers(
    model: minigpt.GPT2LMHead,
    tokenizer: Tokenizer,
    asked: Prompts,
    max_answer_tokens: int,
    silence: str = "",
    progress: Callable[[Iterable], Iterable] = iter,
    **decoding,
) -> list[str]:
    """What the model writes behind each prompt, white space around it removed; `silence` becomes "".

    The caller puts the model in eval mode and enables autocast if wanted. decoding: as for `minigpt.generate`.
    """
    eos_id, device = model.config.eos_token_id, next(model.parameters()).device
    order = np.argsort(asked.lengths, kind="stable")
    answers = [""] * len(asked)
    for at in progress(range(0, len(order), ROWS)):
        rows = order[at : at + ROWS]
        input_ids, mask, _ = (t.to(device) for t in collate_prompts(asked, rows, eos_id, left=True))
        written = minigpt.generate(model, input_ids, mask, max_answer_tokens, **decoding)
        for row, text in zip(rows, tokenizer.decode_batch(written.tolist()), strict=True):
            answers[row] = "" if text.strip() == silence.strip() else text.strip()
    return answers


class Writer:
    """writer("Who is Vin?", "Vin is a Mistborn.") -> "a Mistborn", or "" when the text does not say.

    Args:
        model, tokenizer: a GPT-2 trained on the prompts of squad.prompts.
        max_length, max_answer_tokens, silence: as in training; a longer text loses its end.
        device, precision: where to compute, and the dtype of the matrix products.
    """

    def __init__(
        self,
        model: minigpt.GPT2LMHead,
        tokenizer: Tokenizer,
        max_length: int,
        max_answer_tokens: int,
        silence: str = "",
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
    ):
        self.model, self.tokenizer = model.to(device).eval(), tokenizer
        self.max_length, self.max_answer_tokens, self.silence = max_length, max_answer_tokens, silence
        self.device, self.precision = torch.device(device), precision

    def __call__(self, question: str, context: str, **decoding) -> str:
        """One answer. decoding: temperature, top_k, top_p and generator, see `minigpt.generate`; greedy without.

        Raises DataError when the question leaves no room for the context; ValueError when it is blank, or one of the
        two is not valid Unicode.
        """
        pairs_of(question, context)  # raises for what cannot be asked
        (text,) = self.answer([squad.Example("the question", question, context, (), True, "")], **decoding)
        return text

    def answer(
        self, examples: Sequence[squad.Example], progress: Callable[[Iterable], Iterable] = iter, **decoding
    ) -> list[str]:
        """The answers to many, in batches; see `__call__`. progress: wraps the loop over batches (tqdm, say)."""
        room, eos_id = self.max_answer_tokens, self.model.config.eos_token_id
        asked = make_prompts(examples, self.tokenizer, self.max_length, eos_id, answer_room=room)
        with autocast(self.device, self.precision):
            return write_answers(self.model, self.tokenizer, asked, room, self.silence, progress, **decoding)


def load_trained(run: str | Path) -> tuple[minigpt.GPT2LMHead, Tokenizer]:
    """What a run of train_gpt.py saved: its base with the adapter in it, or the model with all its weights.

    Raises ValueError or OSError that says what is wrong with the run.
    """
    adapter, whole = Path(run) / "adapter", (Path(run) / "model").resolve()  # absolute, so that it is no hub id
    if not adapter.is_dir():
        if not whole.is_dir():
            raise ValueError(f"{run}: this run has saved no model yet; continue it: python train_gpt.py --resume {run}")
        return minigpt.load_pretrained(whole), minigpt.load_tokenizer(whole)
    base, revision, _ = lora.base_of(adapter)
    model = minigpt.load_pretrained(base, revision or None)
    lora.load_adapter(model, adapter, minigpt.checkpoint_names(model.config))
    return model, minigpt.load_tokenizer(base, revision or None)


def load_writer(run: str | Path, device: str = "auto", precision: str = "auto") -> Writer:
    """A writer for a run of train_gpt.py. device, precision: as that script's options.

    Raises ValueError or OSError that says what is wrong with the run.
    """
    config = read_object(Path(run) / "config.json")
    model, tokenizer = load_trained(run)
    lora.remove_lora(model)
    place = choose_device(device)
    dtype = choose_precision(precision, place)
    prepare_frozen(model.requires_grad_(False).to(place), dtype)
    sizes = {name: config[name] for name in ("max_length", "max_answer_tokens", "silence")}
    return Writer(model, tokenizer, **sizes, device=place, precision=dtype)
