"""GPT-2 written out by hand: the decoder beside minibert's encoder. It writes answers where BERT points at them."""

from minigpt.cache import Cache
from minigpt.config import GPT2Config
from minigpt.model import GPT2, GPT2LMHead
from minigpt.sampling import generate
from minigpt.tokenizer import load_tokenizer
from minigpt.weights import checkpoint_names, load_pretrained, save_pretrained
from minihub import CheckpointError

__all__ = [
    "GPT2", "Cache", "CheckpointError", "GPT2Config", "GPT2LMHead", "checkpoint_names", "generate", "load_pretrained",
    "load_tokenizer", "save_pretrained",
]  # fmt: skip


def __dir__() -> list[str]:
    """What Tab shows in a notebook: the public names, without the modules that they come from."""
    return __all__
