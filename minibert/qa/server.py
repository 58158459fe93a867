"""One page and one endpoint on localhost: paste a text, ask, see the answer marked in the text. Standard library only.

GET /         the page (page.html; it loads nothing else)
POST /answer  {"question": ..., "context": ..., "top_k": 3, "answerable": 0.9}
              -> what `response` returns; errors: 4xx {"error": ...}, and 503 when too many questions wait
"""

import io
import ipaddress
import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from minibert.qa.together import BusyError, Together
from minirun import inline_policy
from squad import parse_question

MAX_BODY = 2_000_000  # bytes; a novel has fewer
MAX_DRAINED = 64 * MAX_BODY  # bytes of a body that is too large which are read and thrown away before the answer
MAX_CANDIDATES = 20
SECONDS_TO_SEND = 10  # the time a client has for its whole request, and as much again for taking the answer
LOOPBACK = {"127.0.0.1", "localhost"}


def response(question: str, answers: list[dict]) -> dict:
    """A reader's answers to one question (best first) as one JSON object: the best one, and all as `candidates`."""
    return {"question": question, **answers[0], "candidates": answers}


def make_server(reader: Callable, host: str = "127.0.0.1", port: int = 8000) -> ThreadingHTTPServer:
    """A server that answers with `reader`; call serve_forever() on it.

    Args: reader: called as reader(question=, context=, top_k=), with answerable= too where a client gives it; with
        lists of questions and contexts when several requests wait.
    Port 0 takes a free one (see server_address). The model runs for one batch at a time; other requests are read
    meanwhile. server_close() waits for the answers under way. Raises OSError when the port is taken.
    """
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    page = page.replace("{{answerable}}", str(usual_share(reader) or ""))
    handler = type("Handler", (_Handler,), {
        "reader": Together(reader), "page": page.encode(),
        "policy": inline_policy(page, "connect-src 'self'", "frame-ancestors 'none'"),
    })  # fmt: skip
    try:
        server = _Server((host, port), handler)
    except OSError as error:
        raise OSError(
            f"cannot serve on {host}:{port} ({error.strerror or error}): choose another port or host"
        ) from error
    handler.loopback = ipaddress.ip_address(server.server_address[0]).is_loopback
    handler.names = {*LOOPBACK, host.lower(), server.server_address[0]}
    return server


def usual_share(reader: Callable) -> float | None:
    """Where the page's slider starts: the share of answerable questions that the reader expects; None: no slider."""
    if getattr(reader, "null_scale", None) is None:
        return None
    return reader.answerable or reader.dev_answerable


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for answers under way, at most SECONDS_TO_SEND for a request
    request_queue_size = 128  # connections that the system keeps until they are accepted

    def server_close(self) -> None:
        """Wait for the answers under way, then end the model's thread."""
        super().server_close()
        self.RequestHandlerClass.reader.close()

    def handle_error(self, request, client_address) -> None:
        """Say nothing when a client has closed its connection; report any other error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _ClientError(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class _UntilDeadline(io.RawIOBase):
    """What a client sends within `seconds`; TimeoutError afterwards, however slowly it goes on sending."""

    def __init__(self, connection: socket.socket, seconds: float):
        self.connection, self.deadline = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "minibert", ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_UntilDeadline(self.connection, SECONDS_TO_SEND))

    def do_GET(self) -> None:
        if self.path.split("?")[0] != "/":
            return self.send_error(404, f"no such page: {self.path[:100]}")
        if not self._from_here():
            return self.send_error(403, "this server answers only to localhost")
        self._send(200, "text/html; charset=utf-8", self.page)

    def do_POST(self) -> None:
        try:
            body = self._read_body()
            self._send_json(200, self._answer(body))
        except _ClientError as error:
            self._drain()
            self.send_error(error.status, str(error))
        except ValueError as error:  # the question cannot be answered
            self.send_error(400, str(error))
        except BusyError as error:
            self.send_error(503, f"{error}, try again in a second")
        except (RuntimeError, MemoryError) as error:  # such as out of memory: the next request may be smaller
            self.send_error(500, f"the model failed: {str(error)[:200]}")

    def _read_body(self) -> bytes:
        if self.path != "/answer":
            raise _ClientError(404, f"no such endpoint: {self.path[:100]}, expected /answer")
        if not self._from_here():
            raise _ClientError(403, "this server answers only to localhost")
        # A page of another origin may not send this type without permission, which is refused to it.
        if self.headers.get_content_type() != "application/json":
            raise _ClientError(415, f"the body is {self.headers.get_content_type()}, expected application/json")
        length = self._length()
        if length is None:
            raise _ClientError(411, "Content-Length is missing or not a number")
        if length > MAX_BODY:
            raise _ClientError(413, f"the body has {length} bytes, expected at most {MAX_BODY}")
        body = b"".join(self._parts(length))
        if len(body) < length:
            raise _ClientError(408, f"{len(body)} of {length} bytes arrived within {SECONDS_TO_SEND} seconds")
        return body

    def _drain(self) -> None:
        """Read a body that was refused: closing at once would break the client off before it reads the answer."""
        for _ in self._parts(min(self._length() or 0, MAX_DRAINED)):
            pass

    def _length(self) -> int | None:
        """Bytes of the body, as the client says; None when it does not say a number."""
        length = self.headers.get("Content-Length", "")
        return int(length) if re.fullmatch(r"\d{1,15}", length) else None

    def _parts(self, length: int) -> Iterator[bytes]:
        """The body as it arrives, until it is complete, the client closes or its time is over."""
        while length > 0:
            try:
                part = self.rfile.read1(min(length, 2**16))
            except TimeoutError:
                return
            if not part:
                return
            length -= len(part)
            yield part

    def _answer(self, body: bytes) -> dict:
        asked = parse_question(body)
        top_k = asked.get("top_k", 3)
        if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= MAX_CANDIDATES:
            raise ValueError(f"'top_k' is {str(top_k)[:20]}, expected a whole number from 1 to {MAX_CANDIDATES}")
        settings = {"top_k": top_k}
        if asked.get("answerable") is not None:
            settings["answerable"] = asked["answerable"]
            if not isinstance(asked["answerable"], int | float) or isinstance(asked["answerable"], bool):
                raise ValueError(f"'answerable' is {str(asked['answerable'])[:20]}, expected a number such as 0.9")
        answers = self.reader(question=asked["question"], context=asked["context"], **settings)
        return response(asked["question"], [answers] if top_k == 1 else answers)

    def _from_here(self) -> bool:
        """Whether a server on localhost was addressed as localhost: another name that resolves to it is an attack."""
        host = re.sub(r":\d*$", "", self.headers.get("Host", "")).strip("[]").lower()
        return not self.loopback or host in self.names

    def _send_json(self, status: int, content: dict) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.connection.settimeout(SECONDS_TO_SEND)
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(content))), ("Content-Security-Policy", self.policy),
            ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"),
        ):  # fmt: skip
            self.send_header(name, value)
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send every error as JSON, those of the base class too."""
        self.close_connection = True
        self._send_json(code, {"error": message or self.responses.get(code, ("error",))[0]})

    def log_message(self, *_) -> None:
        """Log nothing: the questions are private."""
