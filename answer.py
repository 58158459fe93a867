"""Ask a text: the exact words that answer the question, or that the text does not say.

    python answer.py --context story.txt --question "Who is Vin?"
    python answer.py --context story.txt             ask again and again; Ctrl-D ends
    python answer.py --batch questions.jsonl         {"id", "question", "context"} a line -> an answer a line
    python answer.py --batch dev-v2.0.json           a SQuAD file -> predictions.json
    python answer.py --serve                         a page on localhost
    python answer.py --model runs/NAME --export DIR  one plain checkpoint, the adapter merged in

In a notebook: from answer import load_reader; reader = load_reader("runs/NAME")
"""

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from tokenizers import Tokenizer
from tqdm import tqdm

import lora
import minibert
import squad
from squad.server import make_server, response

SHIPPED = Path(__file__).parent / "data" / "adapter"
CHUNK = 256  # lines of a batch file answered at a time: enough to sort by length
# ----------------------------------------------------------------------------------- from a name to a reader


def load_reader(
    model: str | Path = SHIPPED, revision: str = "", device: str = "auto", precision: str = "auto", **settings
) -> squad.Reader:
    """A reader for a trained model, with the threshold, temperature and window settings it was saved with.

    Args:
        model: a run of train.py, an adapter, an exported folder, any local or hub BERT QA checkpoint
            (`deepset/bert-base-cased-squad2`); without it, the MiniLM adapter in data/adapter.
        revision: hub commit or tag of the checkpoint.
        device, precision: as train.py's options.
        settings: replace saved ones, see squad.Reader.
    Raises ValueError or OSError (CheckpointError, AdapterError) saying what is wrong with the model.
    """
    bert, tokenizer, saved = load_model(model, revision)
    place = minibert.choose_device(device)
    dtype = minibert.choose_precision(precision, place)
    minibert.store_frozen_as(dtype, bert)
    settings = {**window_sizes(bert.config), **saved, **settings}
    minibert.check_fit(tokenizer, bert.config, settings["max_length"])
    return squad.Reader(bert, tokenizer, device=place, precision=dtype, **settings)


def window_sizes(config: minibert.BertConfig) -> dict[str, int]:
    """How texts are cut for a model that says nothing about it: train.py's way, or smaller parts of fewer positions."""
    length = min(384, config.longest_sequence)
    return {"max_length": length, "window_overlap": min(128, length // 3), "max_question_tokens": min(64, length // 4)}


def load_model(
    name: str | Path, revision: str = "", merged: bool = True
) -> tuple[minibert.BertForQuestionAnswering, Tokenizer, dict]:
    """-> the model in float32, all but its head frozen, its tokenizer, its settings.

    Args: merged: whether an adapter goes into the weights, or stays beside them and costs two products a layer.
    """
    folder = trained_part(Path(name))
    if any((folder / file).is_file() for file in ("adapter_config.json", "adapter_model.safetensors")):
        base, pinned, brings_head = lora.base_of(folder)
        head = "later" if brings_head else "required"
        model = minibert.load_pretrained(base, revision or pinned, head=head)
        lora.load_adapter(model, folder, minibert.checkpoint_names(model.config))
        if merged:
            lora.remove_lora(model)
        tokenizer = minibert.load_tokenizer(base, revision or pinned)
    else:
        source = folder if folder.is_dir() else name
        model = minibert.load_pretrained(source, revision or None, head="required")
        tokenizer = minibert.load_tokenizer(source, revision or None)
    model.bert.requires_grad_(False)
    return model, tokenizer, squad.read_settings(folder / "qa.json")


def trained_part(folder: Path) -> Path:
    """The folder itself, or if it is a run of train.py, what it trained: its adapter/ or model/."""
    for part, file in (("adapter", "adapter_config.json"), ("model", "config.json")):
        if (folder / part / file).is_file():
            return folder / part
    if (folder / "checkpoint").is_dir() or (folder / "log.jsonl").is_file():
        raise ValueError(f"{folder}: this run has saved no model yet; go on with: python train.py --resume {folder}")
    return folder


def export(name: str | Path, revision: str, folder: Path) -> None:
    """Write a plain checkpoint that needs no adapter and that transformers loads too, with qa.json beside it."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty, choose another folder to export to")
    model, tokenizer, settings = load_model(name, revision)
    with minibert.whole_files(folder) as part:
        minibert.save_pretrained(model, part)
        tokenizer.save(str(part / "tokenizer.json"))
        minibert.write_json(part / "qa.json", settings)


# -------------------------------------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    """Parse, load, answer; returns the exit status."""
    options = parse_options(argv)
    minibert.keep_freed_memory()
    if options.export:
        export(options.model, options.revision, options.export)
        print(f"exported to {options.export}")
        return 0
    given = {} if options.null_threshold is None else {"null_threshold": options.null_threshold}
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
    parser = minibert.Parser(description=__doc__)
    verbs = parser.add_mutually_exclusive_group(required=True)
    verbs.add_argument("--context", metavar="FILE", help="the text to ask; - reads it from standard input")
    verbs.add_argument("--batch", metavar="FILE", help="a .jsonl file of questions and contexts, or a SQuAD .json[.gz]")
    verbs.add_argument("--serve", action="store_true", help="serve a page on localhost")
    verbs.add_argument("--export", metavar="DIR", type=Path, help="write the merged checkpoint to this folder")
    add = parser.add_argument
    add("--question", metavar="TEXT", help="the question; without it they are read one by one")
    add("--top-k", metavar="N", type=int, default=1, help="how many different answers to give (1)")
    add("--json", action="store_true", help="print the answer as JSON")
    add("--output", metavar="FILE", help="where --batch writes (standard output; predictions.json for a SQuAD file)")
    add("--model", metavar="NAME", default=SHIPPED, help="a run, an adapter, an exported folder, or a local or hub "
        "BERT QA checkpoint such as deepset/bert-base-cased-squad2 (the MiniLM adapter in data/adapter)")  # fmt: skip
    add("--revision", metavar="NAME", default="", help="hub commit or tag of the checkpoint")
    add("--null-threshold", metavar="X", type=float, help="answer less often: lower; more often: higher (the model's)")
    add("--host", metavar="NAME", default="127.0.0.1", help="address to serve on (127.0.0.1: this machine only)")
    add("--port", metavar="N", type=int, default=8000, help="port to serve on (8000)")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute (auto)")
    add("--precision", choices=("auto", *minibert.hardware.PRECISIONS), default="auto", help="auto: bf16 where native")
    add("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(argv)
    if options.top_k < 1:
        parser.error(f"--top-k is {options.top_k}, expected at least 1")
    if options.context == "-" and options.question is None:
        parser.error("--context - needs --question: standard input cannot hold both the text and the questions")
    if options.question is not None and options.context is None:
        parser.error("--question needs --context")
    if options.output is not None and options.batch is None:
        parser.error("--output needs --batch")
    if not 0 <= options.port <= 65535:
        parser.error(f"--port is {options.port}, expected 0 to 65535")
    if (
        options.output
        and os.path.exists(options.output)
        and os.path.realpath(options.output) == os.path.realpath(options.batch)
    ):
        parser.error(f"--output is the file that --batch reads, {options.batch}: it would be lost")
    return options


def read_text(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 text (byte {error.start}), convert it first") from error


def answer(reader: squad.Reader, context: str, question: str, options: argparse.Namespace) -> None:
    """Ask one question and print what comes."""
    answers = reader(question=question, context=context, top_k=max(2, options.top_k), progress=progress_bar)
    answers = answers[: options.top_k]
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
    """Question after question about one text, until the input ends."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() its history and line editing
    print(f"{len(context):,} characters of text; Ctrl-D ends", file=sys.stderr)
    while True:
        try:
            question = input("? ")
        except EOFError:
            print()
            return 0
        try:
            if question.strip():
                answer(reader, context, question, options)
        except ValueError as error:
            print(f"answer.py: {error}", file=sys.stderr)


def marked_sentence(context: str, start: int, end: int, color: bool = False, reach: int = 300) -> str:
    """The sentence around context[start:end] on one line, at most `reach` characters either side, the span marked."""
    stop = r"(?<=[.!?؟\u06d4。])\s+|\n"  # \u06d4 ends a sentence in Urdu
    left = re.split(stop, context[max(0, start - reach) : start])[-1]
    right = re.split(stop, context[end : end + reach])[0]
    on, off = ("\x1b[1;7m", "\x1b[0m") if color else ("[[", "]]")
    return f"{printable(left).lstrip()}{on}{printable(context[start:end])}{off}{printable(right).rstrip()}"


def printable(text: str) -> str:
    """Text from anywhere, safe on a terminal: control characters, which could move its cursor, become spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


# ------------------------------------------------------------------------------------------- many questions


def answer_file(reader: squad.Reader, name: str, output: str | None, top_k: int) -> int:
    """Answer every question of a file. Returns 1 when some lines were bad, else 0."""
    if name.endswith((".json", ".json.gz")):
        examples = squad.read_examples(name)
        found = reader([e.question for e in examples], [e.context for e in examples], progress=progress_bar)
        answers = {e.id: answer["answer"] for e, answer in zip(examples, found, strict=True)}
        target = Path(output or "predictions.json")
        target.write_text(json.dumps(answers, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{len(answers):,} answers in {target}")
        return 0
    source = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115 - closed by the stack below
    with contextlib.ExitStack() as stack:
        stack.enter_context(source)
        out = stack.enter_context(open(output, "w", encoding="utf-8")) if output else sys.stdout
        size = None if name == "-" else os.path.getsize(name)
        bar = stack.enter_context(tqdm(total=size, unit="B", unit_scale=True, desc="answer", disable=None))
        bad = sum(answer_lines(reader, lines, out, bar, top_k) for lines in chunks(enumerate(source, start=1)))
    if bad:
        print(f"answer.py: {bad} bad lines, the others are answered", file=sys.stderr)
    return int(bad > 0)


def chunks(items: Iterator) -> Iterator[list]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def answer_lines(reader: squad.Reader, lines: list[tuple[int, bytes]], out: TextIO, bar: tqdm, top_k: int) -> int:
    """Numbered JSON lines -> answers, one a line, in order; bad ones are told. Returns how many were bad."""
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
        bar.write(f"answer.py: {problem}", file=sys.stderr)
    bar.update(sum(len(line) for _, line in lines))
    return len(problems)


# ------------------------------------------------------------------------------------------------- the rest


def serve(reader: squad.Reader, host: str, port: int) -> int:
    """Serve the page until Ctrl-C."""
    reader("Is it warm?", "It is warm now.")  # the first pass through a model is slow
    with make_server(reader, host, port) as server:
        print(f"http://{host}:{server.server_address[1]}  (Ctrl-C ends)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


def progress_bar(items):
    return tqdm(items, desc="read", unit="batch", delay=2, leave=False)


if __name__ == "__main__":
    minibert.run_command(main)
