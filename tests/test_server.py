"""The server: its page, its endpoint, and what it says to clients that do not behave."""

import contextlib
import http.client
import json
import socket
import struct
import threading
import types

import pytest
from helpers import check_digests

import minibert.qa.server
import minibert.qa.together
from minibert.qa import __main__ as command
from minibert.qa.__main__ import parse_options
from minibert.qa.server import MAX_BODY, make_server


def scripted(question, context, top_k, answerable=0.5):
    """A reader that finds the question in the text, with the share of answerable questions as its score."""
    if question == "too much":
        raise RuntimeError("out of memory")
    if not question.strip():
        raise ValueError("question is blank, expected a question")
    at = context.find(question)
    found = {"score": answerable, "start": at, "end": at + len(question), "answer": question, "null_margin": -1.0}
    return found if top_k == 1 else [found] * top_k


@contextlib.contextmanager
def served(host):
    """The port of a server on this address."""
    with make_server(scripted, host, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def port():
    with served("127.0.0.1") as port:
        yield port


def request(port, method="POST", path="/answer", body=b"", **headers):
    """-> status, content, headers. `Name_With_Dashes` becomes a header; one set to None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    given = {"Content-Type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
    connection.request(method, path, body, {name: v for name, v in given.items() if v is not None})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content, dict(reply.getheaders())


def ask(port, content, **headers):
    status, body, _ = request(port, body=json.dumps(content).encode(), **headers)
    return status, json.loads(body)


def test_the_page_loads_nothing_and_runs_only_its_own_script(port):
    status, body, headers = request(port, "GET", "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"http://" not in body and b"https://" not in body and b"src=" not in body and b"innerHTML" not in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    for got in (headers, request(port, body=b"{}")[2]):
        assert (got["X-Content-Type-Options"], got["Cache-Control"]) == ("nosniff", "no-store")
    check_digests(body.decode(), policy)


def test_only_this_machine_is_served_unless_told_otherwise():
    assert parse_options(["--serve"]).host == "127.0.0.1"


def test_a_server_for_the_network_is_reached_by_its_name_there():
    with served("0.0.0.0") as port:
        for host in ("192.168.1.5", "somewhere.example:8000", "localhost"):
            assert request(port, "GET", "/", Host=host)[0] == 200


def test_a_port_that_is_taken_is_named(port):
    with pytest.raises(OSError, match=f"cannot serve on 127.0.0.1:{port} .*: choose another port or host"):
        make_server(scripted, port=port)


def test_an_answer_has_the_best_and_the_candidates(port):
    status, content = ask(port, {"question": "b c", "context": "a b c", "top_k": 2})
    found = {"score": 0.5, "start": 2, "end": 5, "answer": "b c", "null_margin": -1.0}
    assert (status, content) == (200, {"question": "b c", **found, "candidates": [found, found]})
    assert len(ask(port, {"question": "b c", "context": "a b c", "top_k": 1})[1]["candidates"]) == 1
    assert len(ask(port, {"question": "b c", "context": "a b c"})[1]["candidates"]) == 3


def test_a_client_may_say_how_many_questions_have_an_answer(port):
    asked = {"question": "b c", "context": "a b c", "top_k": 1}
    assert ask(port, asked | {"answerable": 0.9})[1]["score"] == 0.9
    assert ask(port, asked | {"answerable": None})[1]["score"] == 0.5
    for bad in ("0.9", True, [0.9]):
        status, content = ask(port, asked | {"answerable": bad})
        assert (status, "expected a number such as 0.9" in content["error"]) == (400, True)


def test_a_threshold_of_ones_own_leaves_the_page_without_a_slider(monkeypatch):
    """The saved share of answerable questions belongs to the saved threshold."""
    seen = []
    monkeypatch.setattr(command, "load_reader", lambda *_, **settings: seen.append(settings))
    monkeypatch.setattr(command, "serve", lambda *_: 0)
    for more in ([], ["--null-threshold", "3"], ["--answerable", "0.9"]):
        assert command.main(["--serve", *more]) == 0
    assert seen == [{}, {"null_threshold": 3.0, "null_scale": None}, {"answerable": 0.9}]


def test_the_page_starts_at_the_share_that_the_reader_expects():
    def page(**settings):
        reader = types.SimpleNamespace(**settings)
        with make_server(reader, port=0) as server:
            return server.RequestHandlerClass.page.decode()

    assert 'data-answerable="0.4"' in page(null_scale=2.0, answerable=None, dev_answerable=0.4)
    assert 'data-answerable="0.9"' in page(null_scale=2.0, answerable=0.9, dev_answerable=0.4)
    assert 'data-answerable=""' in page(null_scale=None, answerable=None, dev_answerable=None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the question: not readable as JSON"),
        (b"{", "the question: not readable as JSON"),
        (b"\xff", "the question: not readable as JSON"),
        (b"[" * 100_000, "the question: not readable as JSON"),
        (b"[]", "the question: found a list, expected an object"),
        (b'{"question": "a"}', "'context' is missing, expected text"),
        (b'{"question": 3, "context": "a"}', "'question' is a whole number, expected text"),
        (b'{"question": " ", "context": "a"}', "question is blank"),
        (b'{"question": "a", "context": "a", "top_k": 0}', "'top_k' is 0"),
        (b'{"question": "a", "context": "a", "top_k": true}', "'top_k' is True"),
        (b'{"question": "a", "context": "a", "top_k": 1e9}', "'top_k' is 1000000000.0"),
    ],
)
def test_bad_bodies(port, body, message):
    status, content, headers = request(port, body=body)
    assert (status, headers["Content-Type"]) == (400, "application/json")
    assert message in json.loads(content)["error"]
    assert ask(port, {"question": "a", "context": "a"})[0] == 200  # and goes on


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"path": "/nothing"}, 404),
        ({"method": "GET", "path": "/answer"}, 404),
        ({"method": "PUT"}, 501),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Length": "many"}, 411),
        ({"Host": "evil.example"}, 403),
        ({"method": "GET", "path": "/", "Host": "evil.example"}, 403),
    ],
)
def test_bad_requests(port, changes, status):
    found, content, headers = request(port, **changes)
    assert (found, headers["Content-Type"]) == (status, "application/json")
    assert json.loads(content)["error"]


def test_a_body_that_is_too_large_is_read_before_it_is_refused(port):
    """A client that sends all of its body before it reads would otherwise find the connection reset."""
    body = b'{"question": "a", "context": "' + b"x" * (3 * MAX_BODY) + b'"}'
    status, content, _ = request(port, body=body)
    assert (status, json.loads(content)["error"]) == (
        413,
        f"the body has {len(body)} bytes, expected at most {MAX_BODY}",
    )


def test_a_refused_body_is_read_before_it_is_refused(port):
    body = b'{"question": "a", "context": "' + b"x" * MAX_BODY + b'"}'
    for changes, status in (({"Content_Type": "text/plain"}, 415), ({"path": "/nothing"}, 404), ({"Host": "x.y"}, 403)):
        assert request(port, body=body, **changes)[0] == status


def test_a_failing_model_is_an_error_of_one_request(port):
    status, content = ask(port, {"question": "too much", "context": "a"})
    assert (status, content["error"]) == (500, "the model failed: out of memory")
    assert ask(port, {"question": "a", "context": "a"})[0] == 200


def test_a_client_that_hangs_up_is_no_news(port, capfd):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
            client.sendall(b"POST /answer HTTP/1.1\r\nContent-Length: 9\r\n")
    assert ask(port, {"question": "a", "context": "a"})[0] == 200
    assert capfd.readouterr().err == ""


def test_a_slow_client_is_let_go(port, monkeypatch):
    monkeypatch.setattr(minibert.qa.server, "SECONDS_TO_SEND", 2)
    head = b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(head)
        assert ask(port, {"question": "a", "context": "a"})[0] == 200  # others are served meanwhile
        reply = slow.makefile("rb").read()
    assert b" 408 " in reply.split(b"\r\n")[0]
    assert b"1 of 50 bytes" in reply


BODY = b"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999\r\n\r\n"


@pytest.mark.parametrize("pause", [0.2, 0.002])
@pytest.mark.parametrize("sent", [b"POST /ans", b"POST /answer HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", BODY])
def test_what_drips_is_let_go_and_does_not_keep_a_server_from_closing(monkeypatch, sent, pause):
    monkeypatch.setattr(minibert.qa.server, "SECONDS_TO_SEND", 1)
    server = make_server(scripted, port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with socket.create_connection(server.server_address, timeout=10) as slow:
        slow.sendall(sent)
        server.shutdown()
        thread.join()
        closing = threading.Thread(target=server.server_close)
        closing.start()
        for _ in range(round(20 / pause)):  # a byte at a time, which would go on for 20 s and more
            closing.join(pause)
            if not closing.is_alive():
                break
            with contextlib.suppress(ConnectionError):
                slow.sendall(b"a")
        assert not closing.is_alive()


def test_the_models_thread_ends_with_the_server():
    with make_server(scripted, port=0) as server:
        reader = server.RequestHandlerClass.reader
        assert reader("a", "a b", top_k=1)["answer"] == "a"
        assert any(thread.name.startswith("model") for thread in reader.model_thread._threads)
    assert not any(thread.is_alive() for thread in reader.model_thread._threads)


def test_garbage_on_the_line(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert b"error" in client.makefile("rb").read()
    assert ask(port, {"question": "a", "context": "a"})[0] == 200


def test_too_many_questions_get_503_and_when_to_come_back(port, monkeypatch):
    monkeypatch.setattr(minibert.qa.together, "MOST_WAITING", 0)
    status, content, headers = request(port, body=b'{"question": "b", "context": "a b"}')
    assert (status, headers["Retry-After"]) == (503, "1")
    assert json.loads(content)["error"] == "0 questions are waiting already, try again in a second"
