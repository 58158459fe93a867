"""log.jsonl: what a training run writes about itself, a JSON object a line."""

import json
import time
from collections import deque
from pathlib import Path


class RunLog:
    """A line every `every` steps with the mean loss since the line before, and any other line asked for."""

    def __init__(self, path: str | Path, every: int):
        self.path, self.every = Path(path), every
        self.recent: deque[float] = deque(maxlen=50)
        self.restart()

    def restart(self) -> None:
        """Count from here: what lies between (an evaluation, say) is not part of the next line's speed."""
        self.losses: list[float] = []
        self.questions, self.since = 0, time.perf_counter()

    @property
    def loss(self) -> float:
        """Mean of the last 50 losses: steady enough to watch."""
        return sum(self.recent) / len(self.recent)

    def step(self, step: int, loss: float, questions: int, **values: float) -> None:
        """Note one step; a line is written when `step` is a multiple of `every`."""
        self.losses.append(loss)
        self.recent.append(loss)
        self.questions += questions
        if step % self.every == 0:
            speed = self.questions / (time.perf_counter() - self.since)
            self.write(step=step, loss=sum(self.losses) / len(self.losses), **values, questions_per_second=speed)
            self.restart()

    def write(self, **values) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
