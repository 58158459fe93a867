"""Requests that wait at the same time are answered in one batch, which takes less time than one after another."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

MOST_TOGETHER = 16  # beyond this a batch is hardly faster per question
SHORT = 2_000  # characters: a longer text takes a batch of its own, so that nobody waits for it who need not
MOST_WAITING = 64


class BusyError(Exception):
    """Too many requests wait already."""


@dataclass(eq=False)
class Request:
    question: str
    context: str
    settings: dict
    result: list | dict | Exception | None = None


class Together:
    """Calls `reader` for one request at a time, together with the others that wait.

    It is always called in the same thread: for each thread that computes with them, PyTorch and the C allocator keep
    memory, and PyTorch threads, of their own.

    Args: reader: called as reader(question=, context=, **settings), with texts or with lists of them.
    """

    def __init__(self, reader: Callable):
        self.reader = reader
        self.waiting: list[Request] = []  # oldest first
        self.door = threading.Lock()  # of `waiting`
        self.model_thread = ThreadPoolExecutor(1, "model")

    def __call__(self, question: str, context: str, **settings) -> list | dict:
        """What reader(question, context, **settings) returns. Raises what it raises, and BusyError."""
        mine = Request(question, context, settings)
        with self.door:
            if len(self.waiting) >= MOST_WAITING:
                raise BusyError(f"{MOST_WAITING} questions are waiting already")
            self.waiting.append(mine)
        self.model_thread.submit(self.turn_of, mine).result()
        if isinstance(mine.result, Exception):
            raise mine.result
        return mine.result

    def close(self) -> None:
        """End the thread, once what waits is answered. Calls afterwards raise RuntimeError."""
        self.model_thread.shutdown()

    def turn_of(self, mine: Request) -> None:
        """Answer this request, and others along with it, unless it was answered along with another."""
        if mine.result is None:
            self.answer(self.take(mine))

    def take(self, mine: Request) -> list[Request]:
        """This request and the oldest of those that go with it, which wait no more."""
        with self.door:
            alike = [r for r in self.waiting if r is mine or (fits(r) and fits(mine) and r.settings == mine.settings)]
            taken = [mine, *(r for r in alike if r is not mine)][:MOST_TOGETHER]
            self.waiting = [r for r in self.waiting if r not in taken]
        return taken

    def answer(self, taken: list[Request]) -> None:
        """Set each request's result. When they fail together each is tried alone, as only one may be at fault."""
        try:
            if len(taken) == 1:
                results = [self.reader(question=taken[0].question, context=taken[0].context, **taken[0].settings)]
            else:
                questions, contexts = [r.question for r in taken], [r.context for r in taken]
                results = self.reader(question=questions, context=contexts, **taken[0].settings)
        except Exception as error:
            if len(taken) > 1:
                for request in taken:
                    self.answer([request])
                return
            results = [error]
        for request, result in zip(taken, results, strict=True):
            request.result = result


def fits(request: Request) -> bool:
    return len(request.context) <= SHORT
