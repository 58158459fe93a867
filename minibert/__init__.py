"""A BERT encoder written by hand, and its way to and from safetensors checkpoints."""

from minibert.checkpoint import load_checkpoint, save_checkpoint, stop_signals
from minibert.config import BertConfig, CheckpointError
from minibert.flags import add_flags, option
from minibert.hardware import choose_device, choose_precision, keep_freed_memory, store_frozen_as
from minibert.hub import find_model
from minibert.model import Bert, BertForQuestionAnswering
from minibert.runlog import RunLog
from minibert.tokenizer import check_fit, load_tokenizer
from minibert.weights import checkpoint_names, load_pretrained, save_pretrained

__all__ = [
    "Bert",
    "BertConfig",
    "BertForQuestionAnswering",
    "CheckpointError",
    "RunLog",
    "add_flags",
    "check_fit",
    "checkpoint_names",
    "choose_device",
    "choose_precision",
    "find_model",
    "keep_freed_memory",
    "load_checkpoint",
    "load_pretrained",
    "load_tokenizer",
    "option",
    "save_checkpoint",
    "save_pretrained",
    "stop_signals",
    "store_frozen_as",
]
