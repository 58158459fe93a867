"""A BERT encoder written by hand, with its way to and from safetensors checkpoints.

    encoder = minibert.load_encoder("minilm")          # hidden states, (B, T, H)
    model = minibert.load_pretrained("minilm")         # the same with a question-answering head
    tokenizer = minibert.load_tokenizer("minilm")
    tensors = minibert.trace(model, *inputs)           # every intermediate tensor by name

`minibert.qa` puts a trained model to use; it is a package of its own, imported only when asked for.
"""

from minibert.config import BertConfig, NoHeadError
from minibert.model import Bert, BertForQuestionAnswering
from minibert.trace import trace
from minibert.weights import checkpoint_names, load_encoder, load_pretrained, save_pretrained
from minibert.wordpiece import load_tokenizer
from minihub import CheckpointError

__all__ = [
    "Bert", "BertConfig", "BertForQuestionAnswering", "CheckpointError", "NoHeadError", "checkpoint_names",
    "load_encoder", "load_pretrained", "load_tokenizer", "save_pretrained", "trace",
]  # fmt: skip


def __dir__() -> list[str]:
    """What Tab shows in a notebook: the public names, without the modules that they come from."""
    return __all__
