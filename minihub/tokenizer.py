"""A checkpoint's tokenizer: tokenizer.json, or the vocabulary file of an older checkpoint."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tokenizers import Tokenizer

from minihub.files import CheckpointError
from minihub.hub import find_model


def load_tokenizer(
    name_or_path: str | Path,
    revision: str | None = None,
    vocabularies: Mapping[str, Callable[[Path], Tokenizer]] | None = None,
) -> Tokenizer:
    """The tokenizer of a model, with the truncation and padding settings of its file switched off.

    Its offsets index the raw text, even where the normaliser lower-cases or strips accents.

    Args:
        name_or_path, revision: as for `find_model`; or the path of a tokenizer.json.
        vocabularies: file name (`vocab.txt`) -> the function that makes a tokenizer of this file, tried in order when
            there is no tokenizer.json.
    Raises CheckpointError when no file is there or it cannot be read.
    """
    tokenizer = _find(name_or_path, revision, vocabularies or {})
    # all-MiniLM's file truncates to 128 tokens and pads to 128: windows would lose their end without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_fit(tokenizer: Tokenizer, vocab_size: int, positions: int, max_length: int) -> None:
    """Check that a model of `vocab_size` embeddings and `positions` positions can read windows of `max_length` tokens.

    Raises CheckpointError when the tokenizer has ids beyond the embeddings, or the windows are longer than the
    positions.
    """
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer has ids up to {largest}, but the model only {vocab_size} embeddings: "
            "they are not from the same checkpoint"
        )
    if max_length > positions:
        raise CheckpointError(
            f"windows of {max_length} tokens, but this model has {positions} positions: "
            f"use a max length of at most {positions}"
        )


def _find(name: str | Path, revision: str | None, vocabularies: Mapping) -> Tokenizer:
    if Path(name).is_file():
        return _read(Path(name))
    folder = find_model(name, revision)
    if (folder / "tokenizer.json").is_file():
        return _read(folder / "tokenizer.json")
    for file, make in vocabularies.items():
        if (folder / file).is_file():
            return make(folder / file)
    raise CheckpointError(f"{folder}: no {' and no '.join(['tokenizer.json', *vocabularies])}")


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{path}: not a readable tokenizer ({error})") from error
