"""Ask a text, and let GPT-2 write the answer: python -m minigpt.qa --model RUN --context FILE --question TEXT."""

import sys
from pathlib import Path

import torch

from minigpt.qa.writer import load_writer
from minirun import Parser, run_command
from squad.words import printable


def main(argv: list[str] | None = None) -> int:
    """Parse, load, answer; returns the exit status."""
    parser = Parser(prog="python -m minigpt.qa", description=__doc__)
    add = parser.add_argument
    add("--model", metavar="RUN", required=True, help="the folder of a run of train_gpt.py")
    add("--context", metavar="FILE", required=True, help="the text to ask; - reads it from standard input")
    add("--question", metavar="TEXT", required=True, help="the question")
    add("--decoding", choices=("greedy", "top-k", "top-p"), default="greedy", help="greedy: the same answer every time")
    add("--k", metavar="N", type=int, default=10, help="top-k draws from the N most probable tokens (10)")
    add(
        "--p", metavar="X", type=float, default=0.9, help="top-p draws from the fewest tokens of this probability (0.9)"
    )
    add("--temperature", metavar="X", type=float, default=1.0, help="of top-k and top-p; below 1 is bolder (1.0)")
    add("--seed", metavar="N", type=int, default=0, help="of top-k and top-p (0)")
    options = parser.parse_args(argv)
    context = sys.stdin.read() if options.context == "-" else Path(options.context).read_text(encoding="utf-8-sig")
    decoding = {}
    if options.decoding != "greedy":
        filters = {"top-k": {"top_k": options.k}, "top-p": {"top_p": options.p}}[options.decoding]
        generator = torch.Generator().manual_seed(options.seed)
        decoding = {"temperature": options.temperature, "generator": generator, **filters}
    answer = load_writer(options.model, device="cpu")(options.question, context, **decoding)
    print(printable(answer) or "the text does not say")
    return 0


if __name__ == "__main__":
    run_command(main, "minigpt.qa")
