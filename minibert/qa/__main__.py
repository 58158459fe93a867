"""Ask a text: the exact words that answer the question, or that the text does not say.

    minibert --context story.txt --question "Who is Vin?"
    minibert --context story.txt               question after question; Ctrl-D ends
    minibert --batch questions.jsonl           {"id", "question", "context"} per line -> an answer per line
    minibert --batch dev-v2.0.json             a SQuAD file, with or without answers -> predictions.json
    minibert --serve                           a page on localhost, and POST /answer
    minibert --model runs/NAME --export DIR    one plain checkpoint, with the adapter merged in

Without an install, from a clone, `python -m minibert.qa` is the same command.
In a notebook: from minibert.qa import load_reader; reader = load_reader("runs/NAME")
"""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

import squad
from minibert.qa.load import SHIPPED, export, load_reader
from minibert.qa.server import make_server, response
from minihub import read_text, write_json
from minirun import Parser, keep_freed_memory, progress_bar, run_command
from minirun.hardware import PRECISIONS
from squad.words import marked_sentence, printable

CHUNK = 256  # lines of a batch file answered together: enough to group them by length


def main(argv: list[str] | None = None) -> int:
    """Parse, load, answer; returns the exit status."""
    options = parse_options(argv)
    keep_freed_memory()
    if options.export:
        print(export(options.model, options.export, options.revision, options.onnx))
        return 0
    asked = {"null_threshold": options.null_threshold, "answerable": options.answerable}
    given = {name: value for name, value in asked.items() if value is not None}
    if options.null_threshold is not None:
        given["null_scale"] = None  # it moves the saved threshold, so the page has no slider
    reader = load_reader(options.model, options.revision, options.device, options.precision, **given)
    if options.serve:
        return serve(reader, options.host, options.port)
    if options.batch is not None:
        return answer_file(reader, options.batch, options.output, options.top_k)
    context = read_text(options.context)
    if options.question is None:
        return converse(reader, context, options)
    answer(reader, context, options.question, options)
    return 0


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="minibert", description=__doc__)
    verbs = parser.add_mutually_exclusive_group(required=True)
    verbs.add_argument("--context", metavar="FILE", help="the text to ask; - reads it from standard input")
    verbs.add_argument("--batch", metavar="FILE", help="a .jsonl file of questions and contexts, or a SQuAD .json[.gz]")
    verbs.add_argument("--serve", action="store_true", help="serve a page on localhost")
    verbs.add_argument("--export", metavar="DIR", type=Path, help="write the merged checkpoint to this folder")
    add = parser.add_argument
    add("--question", metavar="TEXT", help="the question; without it they are read one by one")
    add("--top-k", metavar="N", type=int, default=1, help="how many different answers to give, 21 at most (1)")
    add("--json", action="store_true", help="print the answer as JSON")
    add("--output", metavar="FILE", help="where --batch writes (standard output; predictions.json for a SQuAD file)")
    add("--onnx", action="store_true", help="with --export: write model.onnx too, for programs without PyTorch")
    add("--model", metavar="NAME", default=SHIPPED, help="a run, an adapter, an exported folder, or a local or hub "
        "BERT QA checkpoint such as deepset/bert-base-cased-squad2 (the MiniLM adapter of this package)")  # fmt: skip
    add("--revision", metavar="NAME", default="", help="hub commit or tag of the checkpoint")
    often = parser.add_mutually_exclusive_group().add_argument
    often("--answerable", metavar="X", type=float, help="the share of your questions whose text has an answer, above "
          "0 and below 1; 0.9 answers more readily (as in the model's dev set: half of them in SQuAD 2.0)")  # fmt: skip
    often("--null-threshold", metavar="X", type=float, help="the same as a bound on the null odds: higher answers more "
          "often (the model's)")  # fmt: skip
    add("--host", metavar="NAME", help="address to serve on (127.0.0.1: this machine only)")
    add("--port", metavar="N", type=int, help="port to serve on (8000)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute (auto)")
    add("--precision", choices=("auto", *PRECISIONS), default="auto",
        help="auto: bf16 where native, fp16 on older GPUs, else fp32")  # fmt: skip
    options = parser.parse_args(argv)
    if is_squad(options.batch):
        options.output = options.output or "predictions.json"
    check_options(options, parser.error)
    options.host, options.port = options.host or "127.0.0.1", 8000 if options.port is None else options.port
    return options


def check_options(options: argparse.Namespace, error: Callable[[str], None]) -> None:
    """Call `error` with what is wrong with the options: a value, or two that do not go together."""
    if options.top_k < 1:
        error(f"--top-k is {options.top_k}, expected at least 1")
    if options.context == "-" and options.question is None:
        error("--context - needs --question: standard input cannot hold both the text and the questions")
    for flag, needed in (("question", "context"), ("output", "batch"), ("json", "context"), ("onnx", "export"),
                         ("host", "serve"), ("port", "serve")):  # fmt: skip
        if is_given(options, flag) and not is_given(options, needed):
            error(f"--{flag} needs --{needed}")
    usual = {"top_k": 1, "answerable": None, "null_threshold": None, "device": "auto", "precision": "auto"}
    for flag, value in usual.items():
        if options.export and getattr(options, flag) != value:
            error(f"--{flag.replace('_', '-')} changes nothing in --export: give it where the questions are asked")
    if options.top_k > 1 and (options.serve or is_squad(options.batch)):
        error("--top-k is for --context and for a .jsonl file: the page always has 5, a SQuAD file 1")
    if options.port is not None and not 0 <= options.port <= 65535:
        error(f"--port is {options.port}, expected 0 to 65535")
    if options.output and not Path(options.output).absolute().parent.is_dir():
        error(f"--output is {options.output}, but there is no folder {Path(options.output).parent}")
    if options.output and Path(options.output).is_dir():
        error(f"--output is {options.output}, a folder, expected the name of a file")
    files = options.output, options.batch
    if None not in files and all(map(os.path.exists, files)) and os.path.samefile(*files):
        error(f"--output is the file that --batch reads, {options.batch}: it would be overwritten")


def is_given(options: argparse.Namespace, name: str) -> bool:
    """Whether the flag stands on the command line; 0 is a port, and equal to False."""
    value = getattr(options, name)
    return value is not None and value is not False


def is_squad(name: str | None) -> bool:
    return name is not None and name.endswith((".json", ".json.gz"))


def answer(reader: squad.Reader, context: str, question: str, options: argparse.Namespace) -> None:
    """Ask one question and print the answers."""
    answers = reader(question, context, top_k=max(2, options.top_k), progress=progress_bar("read"))[: options.top_k]
    if options.json:
        print(json.dumps(response(question, answers), ensure_ascii=False), flush=True)
        return
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for number, found in enumerate(answers, start=1):
        label = f"{number}. " if options.top_k > 1 else ""
        print(f"{label}{printable(found['answer']) or 'the text does not say'}  ({found['score']:.1%})")
        if found["answer"]:
            print(f"   {marked_sentence(context, found['start'], found['end'], color)}", flush=True)


def converse(reader: squad.Reader, context: str, options: argparse.Namespace) -> int:
    """Answer question after question about one text, until the input ends."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and line editing
    sys.stdin.reconfigure(errors="surrogateescape")  # a line that is not UTF-8 is then refused as a question
    print(f"{len(context):,} characters of text; Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            question = input("? ")
            if question.strip():
                answer(reader, context, question, options)
        except EOFError:
            print()
            return 0
        except ValueError as error:
            print(f"minibert: {error}", file=sys.stderr)


def answer_file(reader: squad.Reader, name: str, output: str | None, top_k: int) -> int:
    """Answer every question of a file. Returns 1 when there were bad lines, else 0."""
    if is_squad(name):
        examples = squad.read_examples(name, need_answers=False)
        if blank := next((e.id for e in examples if not e.question.strip()), None):
            raise ValueError(f"{name}: question {blank} is blank, expected a question")
        questions, contexts = [e.question for e in examples], [e.context for e in examples]
        found = reader(questions, contexts, progress=progress_bar("answer"))
        answers = {e.id: answer["answer"] for e, answer in zip(examples, found, strict=True)}
        write_json(Path(output), answers)
        print(f"{len(answers):,} answers in {output}")
        return 0
    source = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 - closed by the stack below
    with contextlib.ExitStack() as stack:
        stack.enter_context(source)
        out = stack.enter_context(open(output, "w", encoding="utf-8")) if output else sys.stdout
        size = None if name == "-" else os.path.getsize(name)
        bar = stack.enter_context(tqdm(total=size, unit="B", unit_scale=True, desc="answer", disable=None))
        bad = sum(answer_lines(reader, lines, out, bar, top_k) for lines in chunks(enumerate(source, start=1)))
    if bad:
        print(f"minibert: {bad} bad lines, the others are answered", file=sys.stderr)
    return int(bad > 0)


def chunks(items: Iterator) -> Iterator[list]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def answer_lines(reader: squad.Reader, lines: list[tuple[int, bytes]], out: TextIO, bar: tqdm, top_k: int) -> int:
    """Numbered JSON lines -> one answer per line, in order; bad lines are reported. Returns how many were bad."""
    asked, problems = [], []
    for number, line in lines:
        try:
            if line.strip():
                item = squad.parse_question(line)
                json.dumps(item.get("id"), ensure_ascii=False).encode()  # half a surrogate pair could not be printed
                asked.append(item)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    answers = reader([a["question"] for a in asked], [a["context"] for a in asked], top_k)
    for item, found in zip(asked, answers, strict=True):
        document = response(item["question"], found) if top_k > 1 else found
        print(json.dumps({"id": item.get("id"), **document}, ensure_ascii=False), file=out)
    out.flush()
    for problem in problems:
        bar.write(f"minibert: {problem}", file=sys.stderr)
    bar.update(sum(len(line) for _, line in lines))
    return len(problems)


def serve(reader: squad.Reader, host: str, port: int) -> int:
    """Serve the page until Ctrl-C or SIGTERM; answers under way are finished."""
    reader("Is it warm?", "It is warm now.")  # the first pass through a model is slow
    with make_server(reader, host, port) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"http://{host}:{server.server_address[1]}  (Ctrl-C ends)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def command() -> None:
    """The console command `minibert`."""
    run_command(main, "minibert")


if __name__ == "__main__":
    command()
