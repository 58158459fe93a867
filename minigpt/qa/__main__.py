"""Ask a text, and let GPT-2 write the answer: python -m minigpt.qa --model RUN --context FILE --question TEXT."""

import argparse

import torch

from minigpt.qa.writer import load_writer
from minihub import read_text
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
    add("--k", metavar="N", type=int, help="top-k draws from the N most probable tokens (10)")
    add("--p", metavar="X", type=float, help="top-p draws from the fewest tokens of this probability (0.9)")
    add(
        "--temperature",
        metavar="X",
        type=float,
        help="of top-k and top-p; below 1 keeps to likely words, above 1 strays (1.0)",
    )
    add("--seed", metavar="N", type=int, help="of top-k and top-p (0)")
    options = parser.parse_args(argv)
    decoding, context = decoding_of(parser, options), read_text(options.context)
    answer = load_writer(options.model, device="cpu")(options.question, context, **decoding)
    print(printable(answer) or "the text does not say")
    return 0


def decoding_of(parser: Parser, options: argparse.Namespace) -> dict:
    """What `generate` is told about drawing; a usage error for a flag that the chosen way of decoding does not use."""
    drawing = {"temperature": 1.0, "seed": 0}
    used = {"greedy": {}, "top-k": {"k": 10} | drawing, "top-p": {"p": 0.9} | drawing}[options.decoding]
    for name in ("k", "p", "temperature", "seed"):
        value = getattr(options, name)
        if value is not None and name not in used:
            parser.error(f"--{name}: changes nothing with --decoding {options.decoding}")
        if value is not None:
            used[name] = value
    if not used:
        return {}
    if used["temperature"] == 0:
        parser.error("--temperature 0 takes the most probable token every time: use --decoding greedy")
    if not 0 <= used["seed"] < 2**63:
        parser.error(f"--seed is {used['seed']}, expected at least 0 and below {2**63}")
    filters = {f"top_{name}": used[name] for name in ("k", "p") if name in used}
    generator = torch.Generator().manual_seed(used["seed"])
    return {"temperature": used["temperature"], "generator": generator, **filters}


if __name__ == "__main__":
    run_command(main, "minigpt.qa")
