"""Ctrl-C and SIGTERM as a request that a training loop polls between its steps."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from minirun.processes import Processes


@dataclass
class StopRequest:
    """Whether a signal has asked the loop to stop."""

    number: int = 0  # of the first signal; 0 while there is none

    def is_made(self, processes: Processes, device: torch.device) -> bool:
        """Whether any process has received a signal. All processes must ask at the same steps."""
        number = processes.all_reduce_max(self.number, device)
        if number:  # writing a 0 could overwrite a signal that came meanwhile
            self.number = number
        return number > 0

    @property
    def exit_status(self) -> int:
        """What a shell shows for a program that this signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Record the first SIGINT or SIGTERM in the StopRequest, then give both signals their default effect again."""
    request = StopRequest()

    def note(number, frame):
        request.number = number
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
