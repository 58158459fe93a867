"""A BERT encoder written by hand, and its way to and from safetensors checkpoints."""

from minibert.checkpoint import load_checkpoint, save_checkpoint, stop_signals
from minibert.config import BertConfig, CheckpointError
from minibert.flags import (
    Parser,
    add_flags,
    check_ranges,
    option,
    read_json,
    run_command,
    saved_options,
    write_json,
)
from minibert.hardware import choose_device, choose_precision, keep_freed_memory, store_frozen_as
from minibert.hub import find_model
from minibert.model import Bert, BertForQuestionAnswering
from minibert.optim import make_optimizer, schedule
from minibert.parallel import Processes, join_processes
from minibert.runlog import RunLog
from minibert.tokenizer import check_fit, load_tokenizer
from minibert.weights import checkpoint_names, load_pretrained, save_pretrained

__all__ = [
    "Bert",
    "BertConfig",
    "BertForQuestionAnswering",
    "CheckpointError",
    "Parser",
    "Processes",
    "RunLog",
    "add_flags",
    "check_fit",
    "check_ranges",
    "checkpoint_names",
    "choose_device",
    "choose_precision",
    "find_model",
    "join_processes",
    "keep_freed_memory",
    "load_checkpoint",
    "load_pretrained",
    "load_tokenizer",
    "make_optimizer",
    "option",
    "read_json",
    "run_command",
    "save_checkpoint",
    "save_pretrained",
    "saved_options",
    "schedule",
    "stop_signals",
    "store_frozen_as",
    "write_json",
]
