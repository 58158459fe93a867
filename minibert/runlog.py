"""log.jsonl: what a training run writes about itself, a JSON object a line."""

import json
import os
import time
from collections import deque
from pathlib import Path

from minibert.track import NoTracker


class RunLog:
    """A line every `every` steps with the mean loss since the line before, and any other line asked for.

    The log says only what the same run would say again, to the last byte, interrupted or not; how fast it went
    stands in timing.jsonl beside it.

    Args:
        folder: where both files go; None: nowhere.
        every: steps.
        state: what `state()` gave, to go on from there: lines written since are taken back.
        tracker: is sent every line as well, of both files; closed with the log.
    """

    def __init__(
        self, folder: str | Path | None, every: int, state: dict | None = None, tracker: NoTracker | None = None
    ):
        self.tracker = tracker or NoTracker()
        self.folder, self.every = Path(folder) if folder else None, every
        state = state or {}
        self.recent: deque[float] = deque(state.get("recent", []), maxlen=50)
        self.losses: list[float] = state.get("losses", [])
        self.spikes: int = state.get("spikes", 0)
        self.restart()
        if self.folder and (path := self.folder / "log.jsonl").exists():
            os.truncate(path, min(state.get("bytes", 0), path.stat().st_size))

    def state(self) -> dict:
        """What a checkpoint has to keep; the lines so far are brought to the disk."""
        path, size = (self.folder or Path()) / "log.jsonl", 0
        if self.folder and path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            size = path.stat().st_size
        return {"recent": list(self.recent), "losses": self.losses, "spikes": self.spikes, "bytes": size}

    def restart(self) -> None:
        """Count the speed from here: what lies between (an evaluation, say) is not part of the next line's."""
        self.questions, self.since = 0, time.perf_counter()

    @property
    def loss(self) -> float:
        """Mean of the last 50 losses: steady enough to watch."""
        return sum(self.recent) / len(self.recent)

    def step(self, step: int, loss: float, questions: int, **values: float) -> None:
        """Note one step; a line is written when `step` is a multiple of `every`.

        A loss above twice the mean of the 50 before it is counted as a spike.
        """
        self.spikes += len(self.recent) == self.recent.maxlen and loss > 2 * self.loss
        self.losses.append(loss)
        self.recent.append(loss)
        self.questions += questions
        if step % self.every == 0:
            mean, most = sum(self.losses) / len(self.losses), max(self.losses)
            self.write(step=step, loss=mean, loss_max=most, spikes=self.spikes, **values)
            speed = self.questions / (time.perf_counter() - self.since)
            self.write("timing.jsonl", step=step, questions_per_second=speed)
            self.losses = []
            self.restart()

    def write(self, name: str = "log.jsonl", **values) -> None:
        if self.folder:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
            self.tracker.send(values)

    def close(self) -> None:
        self.tracker.close()
