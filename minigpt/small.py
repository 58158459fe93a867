"""A small GPT-2 with random weights and a tokenizer of its own, for places where no pretrained one can be had."""

from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from minigpt.config import GPT2Config
from minigpt.model import GPT2LMHead
from minigpt.tokenizer import EOS, byte_level_tokenizer


def small_model(texts: Sequence[str], n_positions: int, dropout: float = 0.0) -> tuple[GPT2LMHead, Tokenizer]:
    """A new model for `n_positions` tokens, and the tokenizer made for it from these texts."""
    tokenizer = train_tokenizer(texts)
    return GPT2LMHead(small_config(tokenizer, n_positions).with_dropout(dropout)), tokenizer


def train_tokenizer(texts: Sequence[str], vocab_size: int = 8192) -> Tokenizer:
    """A tokenizer like GPT-2's, trained on these texts."""
    tokenizer = byte_level_tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # every byte, so that any text can be written
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=[EOS], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def small_config(tokenizer: Tokenizer, n_positions: int) -> GPT2Config:
    """Four layers of width 256 for this tokenizer: about 5 million parameters at 8,192 tokens."""
    return GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=n_positions, n_embd=256, n_layer=4, n_head=4,
        eos_token_id=tokenizer.token_to_id(EOS),
    )  # fmt: skip
