"""GPT-2's byte-level BPE tokenizer, from tokenizer.json or from the two vocabulary files of older checkpoints."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import minihub
from minihub import CheckpointError

EOS = "<|endoftext|>"


def load_tokenizer(name_or_path: str | Path, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, with any truncation and padding of its own switched off.

    Args: as for `load_pretrained`. Raises CheckpointError when there is neither a readable tokenizer.json nor a
    readable vocab.json with its merges.txt.
    """
    return minihub.load_tokenizer(name_or_path, revision, {"vocab.json": read_vocabulary})


def read_vocabulary(path: Path) -> Tokenizer:
    """vocab.json, token -> id, and the merges.txt beside it, a pair of tokens per line -> `byte_level_tokenizer`."""
    merges = path.with_name("merges.txt")
    if not merges.is_file():
        raise CheckpointError(f"{path.parent}: vocab.json without a merges.txt beside it")
    try:
        model = models.BPE.from_file(str(path), str(merges))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{path}: not a readable vocabulary with its merges.txt ({error})") from error
    return byte_level_tokenizer(model)


def byte_level_tokenizer(model: models.BPE) -> Tokenizer:
    """The tokenizer around a BPE model: text becomes bytes, cut into words with their leading space.

    Source: Radford et al. 2019, section 2.2.
    """
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(EOS) is not None:
        tokenizer.add_special_tokens([EOS])
    return tokenizer
