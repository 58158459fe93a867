"""What training scripts share around their arithmetic: flags, the record of a run, checkpoints, processes, hardware.

Nothing here knows a model or a task.
"""

from minirun.checkpoint import fingerprint
from minirun.command import RunOptions, parse_command
from minirun.flags import Parser, missing_packages, option, progress_bar, run_command
from minirun.hardware import (
    autocast,
    choose_device,
    choose_precision,
    describe_place,
    explain_out_of_memory,
    fused_attention_pays,
    keep_freed_memory,
    parameter_counts,
)
from minirun.optimizer import make_optimizer, schedule
from minirun.pace import fit_to_time, seconds_per_window
from minirun.packed import prepare_frozen
from minirun.page import inline_policy
from minirun.processes import Processes, join_processes
from minirun.record import Record, Step, claim_folder, step_seed
from minirun.signals import catch_stop_signals
from minirun.track import check_tracker

__all__ = [
    "Parser", "Processes", "Record", "RunOptions", "Step", "autocast", "catch_stop_signals", "check_tracker",
    "choose_device", "choose_precision", "claim_folder", "describe_place", "explain_out_of_memory", "fingerprint",
    "fit_to_time", "fused_attention_pays", "inline_policy", "join_processes", "keep_freed_memory", "make_optimizer",
    "missing_packages", "option", "parameter_counts", "parse_command", "prepare_frozen", "progress_bar", "run_command",
    "schedule", "seconds_per_window", "step_seed",
]  # fmt: skip
