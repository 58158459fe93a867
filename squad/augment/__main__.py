"""python -m squad.augment FILE: questions, and what `augment` makes of them."""

from minirun import Parser, run_command
from squad import find_data, read_examples
from squad.augment import augment
from squad.augment.ways import sentence_around
from squad.words import printable


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m squad.augment", description="Show unanswerable questions made from answerable ones."
    )
    parser.add_argument("file", help="SQuAD file, or excerpt, sample, squad_v2")
    parser.add_argument("--count", metavar="N", type=int, default=20, help="how many of each kind (20)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="which ones (0)")
    options = parser.parse_args(argv)
    for name, least in (("count", 1), ("seed", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least {least}")
    examples = {example.id: example for example in read_examples(find_data(options.file, "train"))}
    made = augment(list(examples.values()), options.count, options.count, seed=options.seed)
    for new in made:
        old = examples[new.id.rsplit("-", 2)[0]]
        first = old.answers[0]
        changed = new.question
        if new.question == old.question:
            changed = f"the text without: {sentence_around(old.context, first.start, first.end)}"
        print(f"{printable(old.question)}  ({printable(first.text)})\n  -> {printable(changed)}\n")
    if len(made) < 2 * options.count:
        print(f"these {len(made)} instead of {2 * options.count}: of one kind or both no more could be made")
    return 0


if __name__ == "__main__":
    run_command(main, "squad.augment")
