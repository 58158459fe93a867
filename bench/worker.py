"""A process that works when it is asked: for measuring two ways of doing something in turn."""

import multiprocessing
from collections.abc import Callable


class Worker:
    """One process; while another one works, it waits, so that neither shares memory or settings with the other.

    Args: prepare: called in the new process as prepare(*arguments); returns the function that answers each `ask`.
        It must be importable by name, and its arguments picklable. Its ValueError or OSError is raised here, as a
        ValueError.
    """

    def __init__(self, prepare: Callable, *arguments):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, prepare, arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that an ended worker closes the pipe
        self._receive()  # wait until it is prepared

    def ask(self, *arguments):
        """Call the prepared function with these arguments in the process; returns what it returns.

        Raises ValueError when the process has ended, as after an error of its own.
        """
        try:
            self._pipe.send(arguments)
        except OSError as error:  # it had ended before
            raise self._ended() from error
        return self._receive()

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def _receive(self):
        try:
            found = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        if isinstance(found, ValueError):
            raise found
        return found

    def _ended(self) -> ValueError:
        self._process.join()
        status = self._process.exitcode  # -9: killed, as when memory runs out
        return ValueError(f"a worker process has ended with status {status}; if it had a message, that stands above")


def _serve(pipe, prepare: Callable, arguments: tuple) -> None:
    try:
        answer = prepare(*arguments)
    except (ValueError, OSError) as error:  # a mistake that the user can correct
        pipe.send(ValueError(str(error)))
        return
    pipe.send(None)
    while True:
        try:
            asked = pipe.recv()
        except EOFError:  # the other end is closed
            return
        pipe.send(answer(*asked))
