"""The tokenizer of a checkpoint, from tokenizer.json or vocab.txt."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from minibert.config import BertConfig, CheckpointError
from minibert.hub import find_model

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(name_or_path: str | Path, revision: str | None = None) -> Tokenizer:
    """The tokenizer of a model, with any truncation and padding of its own switched off.

    Its offsets index the raw text, also where the normaliser lower-cases or strips accents.

    Args: as for `load_pretrained`. Raises CheckpointError when there is no readable tokenizer.json or vocab.txt.
    """
    folder = find_model(name_or_path, revision)
    if (folder / "tokenizer.json").is_file():
        tokenizer = _read(folder / "tokenizer.json")
    elif (folder / "vocab.txt").is_file():
        tokenizer = wordpiece_tokenizer(_lines(folder / "vocab.txt"))
    else:
        raise CheckpointError(f"{folder}: neither tokenizer.json nor vocab.txt")
    # all-MiniLM's file truncates to 128 and pads to 128: windows would silently lose their end.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_fit(tokenizer: Tokenizer, config: BertConfig, max_length: int) -> None:
    """Raise CheckpointError when the tokenizer makes ids that the model lacks, or it has no max_length positions."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.vocab_size:
        raise CheckpointError(
            f"the tokenizer makes ids up to {largest}, the model has {config.vocab_size}: "
            "they are not of one checkpoint"
        )
    if max_length > config.longest_sequence:
        raise CheckpointError(
            f"windows of {max_length} tokens, but this model has {config.longest_sequence} positions: "
            f"use a max length of at most {config.longest_sequence}"
        )


def wordpiece_tokenizer(tokens: list[str]) -> Tokenizer:
    """BERT's WordPiece tokenizer over a vocabulary, token i having id i (Devlin et al. 2018, section 3).

    A vocabulary in which no token has an upper-case letter is an uncased model's: text is then lower-cased
    and stripped of accents. Raises CheckpointError when a special token is missing.
    """
    if tokens and not tokens[-1]:
        tokens = tokens[:-1]  # the file's last newline
    vocabulary = {token.rstrip("\r"): i for i, token in enumerate(tokens)}
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise CheckpointError(f"vocab.txt: {', '.join(missing)} missing, expected one token a line")
    uncased = all(token == token.lower() for token in vocabulary if not token.startswith("["))
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=uncased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8 text (byte {error.start}), expected one token a line") from error


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(f"{path}: not a readable tokenizer ({error})") from error
