"""A BERT encoder written by hand, and its way to and from safetensors checkpoints."""

from minibert.checkpoint import load_checkpoint, save_checkpoint, stop_signals
from minibert.config import BertConfig, CheckpointError
from minibert.flags import Parser, add_flags, option, run_command
from minibert.hardware import choose_device, choose_precision, keep_freed_memory, store_frozen_as
from minibert.hub import find_model
from minibert.model import Bert, BertForQuestionAnswering
from minibert.optim import make_optimizer, schedule
from minibert.runlog import RunLog
from minibert.tokenizer import check_fit, load_tokenizer
from minibert.weights import checkpoint_names, load_pretrained, save_pretrained

__all__ = [
    "Bert",
    "BertConfig",
    "BertForQuestionAnswering",
    "CheckpointError",
    "Parser",
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
    "make_optimizer",
    "option",
    "run_command",
    "save_checkpoint",
    "save_pretrained",
    "schedule",
    "stop_signals",
    "store_frozen_as",
]
