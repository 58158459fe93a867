"""A BERT encoder written by hand, and its way to and from safetensors checkpoints."""

from minibert.checkpoint import fingerprint, load_checkpoint, save_checkpoint, stop_signals
from minibert.config import BertConfig, CheckpointError, NoHeadError
from minibert.files import only_writer, read_json, whole_files, write_json
from minibert.flags import Parser, add_flags, check_values, option, run_command, saved_options
from minibert.hardware import (
    choose_device,
    choose_precision,
    explain_out_of_memory,
    keep_freed_memory,
    store_frozen_as,
)
from minibert.hub import find_model
from minibert.model import Bert, BertForQuestionAnswering
from minibert.optim import make_optimizer, schedule
from minibert.parallel import Processes, join_processes
from minibert.runlog import RunLog
from minibert.tokenizer import check_fit, load_tokenizer
from minibert.track import check_tracker, open_tracker
from minibert.weights import checkpoint_names, load_pretrained, save_pretrained

__all__ = [
    "Bert",
    "BertConfig",
    "BertForQuestionAnswering",
    "CheckpointError",
    "NoHeadError",
    "Parser",
    "Processes",
    "RunLog",
    "add_flags",
    "check_fit",
    "check_tracker",
    "check_values",
    "checkpoint_names",
    "choose_device",
    "choose_precision",
    "explain_out_of_memory",
    "find_model",
    "fingerprint",
    "join_processes",
    "keep_freed_memory",
    "load_checkpoint",
    "load_pretrained",
    "load_tokenizer",
    "make_optimizer",
    "only_writer",
    "open_tracker",
    "option",
    "read_json",
    "run_command",
    "save_checkpoint",
    "save_pretrained",
    "saved_options",
    "schedule",
    "stop_signals",
    "store_frozen_as",
    "whole_files",
    "write_json",
]
