"""log.jsonl: what a training run writes about itself, one JSON object per line."""

import json
import os
import time
from collections import deque
from pathlib import Path

from minirun.track import NoTracker


class RunLog:
    """A line every `every` steps with the mean loss since the previous line, and other lines when asked.

    log.jsonl holds only what the same run would write again, byte for byte. Its speed is in timing.jsonl beside it.

    Args:
        folder: of both files; None writes nothing.
        every: steps per line.
        state: what `state()` returned, to continue from there: lines written after that are removed.
        tracker: is sent every line of both files; closed with the log.
    """

    def __init__(
        self, folder: str | Path | None, every: int, state: dict | None = None, tracker: NoTracker | None = None
    ):
        self.tracker = tracker or NoTracker()
        self.folder, self.every = Path(folder) if folder else None, every
        state = state or {}
        self.recent: deque[float] = deque(state.get("recent", []), maxlen=50)
        self.losses: list[float] = state.get("losses", [])  # since the last line
        self.spikes: int = state.get("spikes", 0)
        self.restart_clock()
        if self.folder and (path := self.folder / "log.jsonl").exists():
            os.truncate(path, min(state.get("bytes", 0), path.stat().st_size))

    def state(self) -> dict:
        """What a checkpoint must keep of the log; the lines so far are flushed to the disk."""
        path, size = (self.folder or Path()) / "log.jsonl", 0
        if self.folder and path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            size = path.stat().st_size
        return {"recent": list(self.recent), "losses": self.losses, "spikes": self.spikes, "bytes": size}

    def restart_clock(self) -> None:
        """Measure the speed from here on, so that an evaluation, say, does not count into the next line."""
        self.windows, self.since = 0, time.perf_counter()

    @property
    def loss(self) -> float:
        """Mean of the last 50 losses: steady enough to watch."""
        return sum(self.recent) / len(self.recent)

    def step(self, step: int, loss: float, windows: int, **values: float | None) -> None:
        """Note one step; write a line when `step` is a multiple of `every`.

        A loss above twice the mean of the 50 before it counts as a spike.
        """
        self.spikes += len(self.recent) == self.recent.maxlen and loss > 2 * self.loss
        self.losses.append(loss)
        self.recent.append(loss)
        self.windows += windows
        if step % self.every == 0:
            mean, largest = sum(self.losses) / len(self.losses), max(self.losses)
            self.write(step=step, loss=mean, loss_max=largest, spikes=self.spikes, **values)
            speed = self.windows / (time.perf_counter() - self.since)
            self.write("timing.jsonl", step=step, windows_per_second=speed)
            self.losses = []
            self.restart_clock()

    def write(self, name: str = "log.jsonl", **values) -> None:
        if self.folder:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
            self.tracker.send(values)

    def close(self) -> None:
        self.tracker.close()
