"""BERT's WordPiece tokenizer, from tokenizer.json or from the vocab.txt of older checkpoints."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import minihub
from minihub import CheckpointError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(name_or_path: str | Path, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, with any truncation and padding of its own switched off.

    Args: as for `load_pretrained`. Raises CheckpointError when there is no readable tokenizer.json or vocab.txt.
    """
    return minihub.load_tokenizer(name_or_path, revision, {"vocab.txt": read_vocabulary})


def read_vocabulary(path: Path) -> Tokenizer:
    """vocab.txt, one token per line -> `wordpiece_tokenizer`."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text (byte {error.start}), expected one token per line") from error
    if not lines[-1]:
        lines.pop()  # what follows the last newline
    try:
        return wordpiece_tokenizer([line.rstrip("\r") for line in lines])
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def wordpiece_tokenizer(tokens: list[str]) -> Tokenizer:
    """BERT's WordPiece tokenizer for a vocabulary in which token i has id i (Devlin et al. 2018, section 3).

    A vocabulary in which no token has an upper-case letter belongs to an uncased model: text is then lower-cased and
    stripped of accents. Raises ValueError when a special token is missing.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise ValueError(f"the tokens {', '.join(missing)} are missing from the vocabulary")
    uncased = all(token == token.lower() for token in vocabulary if not token.startswith("["))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=uncased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return tokenizer
