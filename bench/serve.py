"""Load on `minibert --serve`: requests per second, waiting times, memory, and whether each client gets its own answer.

    python bench/serve.py                        1, 8 and 64 clients, 100 seconds each
    python bench/serve.py --seconds 5 --clients 8

The server is a process of its own; the clients are threads of this one, on the same cores, each with one request at a
time and a new connection for each. A client asks for a number that stands in its own text only, so an answer that was
meant for another is seen. One-sentence texts.
"""

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from machine import processor

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="at the same time (1 8 64)")
    parser.add_argument("--seconds", type=float, default=100, help="for each number of clients (100)")
    options = parser.parse_args()
    minutes = len(options.clients) * options.seconds / 60
    print(f"about {minutes:.1f} minutes on {processor()}\n", file=sys.stderr)
    command = [sys.executable, "-m", "minibert.qa", "--serve", "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[0].removeprefix("http://")
        fresh = memory(server.pid)
        load(address, max(options.clients), 3)  # so that the memory at the start is that of a server in use
        print("| clients | requests/s | p50 ms | p99 ms | longest ms | answers of others | 503 | broken off | MiB |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        print(f"| none yet |  |  |  |  |  |  |  | {fresh:.0f} |")
        print(f"| after 3 s of most |  |  |  |  |  |  |  | {memory(server.pid):.0f} |")
        for clients in options.clients:
            times, seen = load(address, clients, options.seconds)
            ms = 1000 * np.array(times)
            figures = [len(ms) / options.seconds, *np.percentile(ms, [50, 99]), ms.max()]
            counts = [seen["of another"], seen[503], seen["broken off"]]
            cells = [clients, *(f"{x:.1f}" for x in figures), *counts, f"{memory(server.pid):.0f}"]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    finally:
        server.terminate()
        print(f"\nthe server ended with exit status {server.wait(60)}", file=sys.stderr)


def load(address: str, clients: int, seconds: float) -> tuple[list[float], Counter]:
    """-> the seconds that each answer took, and how often anything else happened than the client's own answer."""
    times, seen = [], Counter()
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        asked = 0
        while time.monotonic() < until:
            asked += 1
            own = f"{number:03}{asked:05}"  # of one length, so that none is a part of another
            began = time.monotonic()
            context = f"House {number} has the number {own}."
            status, answer = ask(address, f"What is the number of the house {number}?", context)
            if status == 200:
                times.append(time.monotonic() - began)
                seen["own" if answer and answer in context else "of another"] += 1
            else:
                seen[status] += 1
                time.sleep(1)  # as the server asks for

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, seen


def ask(address: str, question: str, context: str) -> tuple[int | str, str]:
    """-> status and answer; the status is "broken off" when there was no reply."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        body = json.dumps({"question": question, "context": context, "top_k": 1, "answerable": 0.9})
        connection.request("POST", "/answer", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read()).get("answer", "")
    except (OSError, http.client.HTTPException):
        return "broken off", ""
    finally:
        connection.close()


def memory(pid: int) -> float:
    """MiB that a process has in memory (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
