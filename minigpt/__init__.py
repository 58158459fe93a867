"""GPT-2 written out by hand: the decoder beside minibert's encoder. It writes answers where BERT points at them."""

from minigpt.config import GPT2Config
from minigpt.model import GPT2, GPT2LMHead
from minigpt.sampling import generate
from minigpt.weights import checkpoint_names, load_pretrained, save_pretrained

__all__ = ["GPT2", "GPT2Config", "GPT2LMHead", "checkpoint_names", "generate", "load_pretrained", "save_pretrained"]
