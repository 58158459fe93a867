"""Requests at the same time: each gets its own answer, whoever computes it."""

import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import ROOT

from minibert.qa import together
from minibert.qa.together import BusyError, Together


class Scripted:
    """A reader that answers with question and context, and writes down what it was called with.

    Its first answer waits until `may_go_on`.
    """

    def __init__(self):
        self.calls, self.threads = [], set()
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, question, context, **settings):
        self.begun.set()
        self.threads.add(threading.get_ident())
        assert self.may_go_on.wait(60)
        several = isinstance(question, list)
        pairs = list(zip(question, context, strict=True)) if several else [(question, context)]
        self.calls.append([q for q, _ in pairs])
        if any(q == "bad" for q, _ in pairs):
            raise ValueError("a bad question")
        found = [{"answer": f"{q} {c} {settings}"} for q, c in pairs]
        return found if several else found[0]


def ask_all(ask, asked):
    """Ask at the same time -> the results in order, exceptions as themselves."""

    def one(pair):
        try:
            return ask(*pair[:2], **pair[2])
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(one, asked))


def waiting_behind(reader, ask, asked):
    """Start one request, and let it be answered once all others wait or were sent away; -> results of the others."""
    refused = []

    def one_of_the_others(*arguments, **settings):
        try:
            return ask(*arguments, **settings)
        except BusyError:
            refused.append(arguments)
            raise

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, "first", "c")
        assert reader.begun.wait(60)
        others = pool.submit(ask_all, one_of_the_others, asked)
        while len(ask.waiting) + len(refused) < len(asked) and not others.done():
            time.sleep(0.001)
        reader.may_go_on.set()
        assert first.result() == {"answer": "first c {}"}
        return others.result()


def test_each_gets_the_answer_to_its_own_question():
    reader = Scripted()
    asked = [(f"q{i}", f"c{i}", {"top_k": 1 + i % 3}) for i in range(60)]
    found = waiting_behind(reader, Together(reader), asked)
    assert found == [{"answer": f"{q} {c} {s}"} for q, c, s in asked]
    assert sorted(q for call in reader.calls for q in call) == sorted(["first", *(q for q, _, _ in asked)])
    assert max(map(len, reader.calls)) == together.MOST_TOGETHER
    assert len(reader.threads) == 1  # each further thread would keep memory of its own


def test_those_that_wait_are_answered_together_but_long_texts_alone():
    reader = Scripted()
    long = "x" * (together.SHORT + 1)
    found = waiting_behind(reader, Together(reader), [("a", "c", {}), ("b", long, {}), ("c", "c", {}), ("d", "c", {})])
    assert [result["answer"][0] for result in found] == ["a", "b", "c", "d"]
    assert sorted(map(sorted, reader.calls)) == [["a", "c", "d"], ["b"], ["first"]]


def test_a_bad_question_spoils_only_its_own_answer():
    reader = Scripted()
    found = waiting_behind(reader, Together(reader), [("a", "c", {}), ("bad", "c", {}), ("b", "c", {})])
    assert found[0] == {"answer": "a c {}"} and found[2] == {"answer": "b c {}"}
    assert isinstance(found[1], ValueError)


def test_too_many_are_told_so_and_the_others_answered(monkeypatch):
    monkeypatch.setattr(together, "MOST_WAITING", 3)
    reader = Scripted()
    found = waiting_behind(reader, Together(reader), [(f"q{i}", "c", {}) for i in range(8)])
    assert sum(isinstance(result, BusyError) for result in found) == 5
    assert sum(isinstance(result, dict) for result in found) == 3


SLOW = """
import sys, time
from minibert.qa import __main__ as cli
def reader(question, context, **settings):
    if not question.startswith("Is it warm"):
        print("asked", flush=True)
        time.sleep(1.5)
    return {"answer": question}
cli.serve(reader, "127.0.0.1", 0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_finishes_the_answer_under_way(number):
    import http.client

    server = subprocess.Popen([sys.executable, "-c", SLOW], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        connection = http.client.HTTPConnection(server.stdout.readline().split()[0].removeprefix("http://"), timeout=30)
        body = json.dumps({"question": "who", "context": "vin", "top_k": 1})
        connection.request("POST", "/answer", body, {"Content-Type": "application/json"})
        assert server.stdout.readline() == "asked\n"  # before the request is accepted it would be lost
        server.send_signal(number)
        reply = connection.getresponse()
        assert (reply.status, json.loads(reply.read())["answer"]) == (200, "who")
        connection.close()
        assert server.wait(timeout=30) == 0
    finally:
        server.kill()
        server.communicate()
