"""python -m squad.audit FILE"""

from minihub import load_tokenizer
from minirun import Parser, progress_bar, run_command
from squad.audit.alignment import CAUSES, audit
from squad.examples import DataError, WrongOffsetError, read_examples
from squad.metrics import official_metrics
from squad.scoring import find_scoring
from squad.windowing import MAX_LENGTH, OVERLAP, make_windows

DESCRIPTION = """What tokenising and windowing lose before any model is asked.

For every answer: is the text read back from its tokens the gold text? And the EM and F1 of a perfect model, one that
always picks the best labelled span."""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m squad.audit", description=DESCRIPTION)
    add = parser.add_argument
    add("file", help="SQuAD file, .json or .json.gz")
    add("--tokenizer", metavar="NAME", default="minilm", help="tokenizer.json, a model's folder or hub id (minilm)")
    add("--max-length", type=int, default=MAX_LENGTH, metavar="N", help=f"tokens in a window ({MAX_LENGTH})")
    add("--window-overlap", type=int, default=OVERLAP, metavar="N", help=f"tokens that windows share ({OVERLAP})")
    add("--max-answer-tokens", type=int, default=30, metavar="N", help="longest answer looked for (30)")
    add("--scoring", choices=("official", "multilingual"), default="official", help="how answers are compared")
    add("--language", default="", metavar="CODE", help="of the answers, for --scoring multilingual, such as ur")
    options = parser.parse_args(argv)
    bad: list[DataError] = []
    tokenizer, scoring = load_tokenizer(options.tokenizer), find_scoring(options.scoring, options.language)
    examples = read_examples(options.file, bad.append)
    windows = make_windows(
        examples, tokenizer, options.max_length, options.window_overlap, progress=progress_bar("tokenise", "chunk")
    )
    causes, answers = audit(examples, windows, options.max_answer_tokens, scoring.normalize)
    malformed = [error for error in bad if not isinstance(error, WrongOffsetError)]
    total = max(1, sum(causes.values()))  # of answers, while wrong offsets are counted by questions
    causes["wrong offset"] = len(bad) - len(malformed)
    print(f"{options.file}: {len(examples):,} questions, {sum(len(e.answers) for e in examples):,} answers")
    for cause, meaning in CAUSES.items():
        share = "" if cause == "wrong offset" else f"{causes[cause] / total:.2%}"
        print(f"{cause:>18} {causes[cause]:>8,} {share:>7}  {meaning}")
    if malformed:
        print(f"{'malformed':>18} {len(malformed):>8,}          questions left out, the first: {malformed[0]}")
    if examples:
        metrics = official_metrics(examples, answers, normalize=scoring.normalize)
        rules = f" ({scoring.name} scoring)" if scoring.name != "official" else ""
        print(f"a perfect model would reach EM {metrics['exact']:.2f}, F1 {metrics['f1']:.2f}{rules}")
    return 0


if __name__ == "__main__":
    run_command(main, "squad.audit")
