"""How long questions and their texts are, and which window length fits them: python -m squad.audit.lengths FILE..."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minihub import load_tokenizer
from minirun import Parser, progress_bar, run_command
from squad.align import char_to_token_span
from squad.dataset import load_dataset
from squad.examples import Example
from squad.windowing import MAX_LENGTH, MAX_QUESTION, OVERLAP, cut
from squad.windows import Windows

MAX_LENGTHS = (128, 192, 256, 320, 384, 512)
PERCENTILES = (50, 75, 90, 95, 99, 100)


class Fit(NamedTuple):
    """What cutting a data set with one max length gives; shares are 0 to 1."""

    max_length: int  # tokens in a window
    overlap: int  # context tokens that neighbouring windows share
    split: float  # share of questions that need more than one window
    windows: float  # per question
    lost: float  # share of answers that no window holds whole, of those that have tokens


class Lengths(NamedTuple):
    """A data set's lengths in tokens: question (cut to its limit), context and special tokens together."""

    questions: int
    percentiles: dict[int, int]  # p -> the smallest length that p% of the questions do not exceed
    fits: list[Fit]


def measure_lengths(
    examples: Sequence[Example],
    windows: Windows,
    overlap: int = OVERLAP,
    max_question_tokens: int = MAX_QUESTION,
    max_lengths: Sequence[int] = MAX_LENGTHS,
) -> Lengths:
    """Lengths of the examples, and what cutting them with each of `max_lengths` would give.

    Args:
        windows: of `examples`, of any size; only their tokens are used.
        overlap, max_question_tokens: as for `make_windows`. When a max length leaves no room for this overlap, half of
            the room is taken; a max length without room for any context is left out.
    Raises ValueError when none of them has such room.
    """
    contexts = windows.contexts.lengths[windows.context_index]
    special = windows.separators + 2
    lengths = windows.questions.lengths + contexts + special
    percentiles = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
    answers = _answer_tokens(examples, windows)
    fits = []
    for max_length in max_lengths:
        room = max_length - special - max_question_tokens
        if room > 0:
            shared = overlap if overlap < room else room // 2
            shares = _shares(windows.questions.lengths, contexts, answers, max_length - special, shared)
            fits.append(Fit(max_length, shared, *shares))
    if not fits:
        raise ValueError(
            f"no max length of {', '.join(map(str, max_lengths))} has room for context beside a question of "
            f"{max_question_tokens} tokens and {special} special ones; lower --max-question-tokens"
        )
    return Lengths(len(examples), dict(zip(PERCENTILES, map(int, percentiles), strict=True)), fits)


def _shares(
    questions: np.ndarray, contexts: np.ndarray, answers: np.ndarray, length: int, overlap: int
) -> tuple[float, float, float]:
    """split, windows and lost of `Fit`, for windows of this `length`, special tokens not counted.

    Args: tokens of each question and its context, (E,) each; answers (A, 3): example, first and last token.
    """
    example_index, _, end = cut(questions, contexts, length, overlap)
    count = np.bincount(example_index, minlength=len(questions))
    first_window = np.cumsum(count) - count
    owner, first, last = answers.T
    # Among the windows that begin at or before the answer, the last one reaches furthest.
    window = first_window[owner] + np.minimum(first // (length - questions[owner] - overlap), count[owner] - 1)
    lost = (last >= end[window]).mean() if len(answers) else 0.0
    return float((count > 1).mean()), float(count.mean()), float(lost)


def _answer_tokens(examples: Sequence[Example], windows: Windows) -> np.ndarray:
    """(A, 3) example, first and last context token of every answer that has any."""
    found = []
    for i, example in enumerate(examples):
        offsets = windows.offsets[windows.context_index[i]]
        for answer in example.answers:
            span = char_to_token_span(offsets, answer.start, answer.end)
            found += [] if span is None else [(i, *span)]
    return np.array(found, np.int64).reshape(-1, 3)


def suggest_max_length(
    measured: Mapping[str, Lengths], in_one: float = 0.95, may_lose: float = 0.005
) -> tuple[int, str]:
    """The max length to use for data sets, given by name, and the reason in words.

    It is the shortest at which each set has at least the share `in_one` of its questions in a single window and at most
    the share `may_lose` of its answers in no window; the longest when none fulfils that.
    """
    for fits in zip(*(lengths.fits for lengths in measured.values()), strict=True):
        if all(fit.split <= 1 - in_one and fit.lost <= may_lose for fit in fits):
            which = "the shortest with"
            break
    else:
        which = "the longest, as none has"
    shares = "; ".join(
        f"{name} has {1 - fit.split:.1%} and {fit.lost:.2%}" for name, fit in zip(measured, fits, strict=True)
    )
    return fits[0].max_length, (
        f"{which} at least {in_one:.0%} of the questions in one window and at most {may_lose:.1%} of the answers in "
        f"none ({shares})"
    )


def lengths_table(measured: Mapping[str, Lengths]) -> str:
    """What `measure_lengths` gives for data sets by name, and the suggested max length, as a table for people."""
    lines = ["tokens of question, context and special tokens together: p% of the questions have at most"]
    lines.append(f"{'':8}{'questions':>10}" + "".join(f"{f'{p}%':>7}" for p in PERCENTILES))
    for name, lengths in measured.items():
        row = "".join(f"{n:>7,}" for n in lengths.percentiles.values())
        lines.append(f"{name[:8]:8}{lengths.questions:>10,}{row}")
    head = f"{'max length':>10}{'overlap':>9}{'over one window':>17}{'windows a question':>20}{'answers cut':>13}"
    for name, lengths in measured.items():
        lines += ["", f"{name:8}{head}"]
        for fit in lengths.fits:
            row = f"{'':8}{fit.max_length:>10}{fit.overlap:>9}{fit.split:>17.1%}{fit.windows:>20.2f}{fit.lost:>13.2%}"
            lines.append(row)
    value, why = suggest_max_length(measured)
    overlap = next(fit.overlap for fit in next(iter(measured.values())).fits if fit.max_length == value)
    return "\n".join([*lines, "", f"suggested: --max-length {value} --window-overlap {overlap}", why])


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m squad.audit.lengths", description=__doc__.split(":")[0] + ".")
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="SQuAD files, .json or .json.gz, such as train and dev")
    add("--tokenizer", metavar="NAME", default="minilm", help="tokenizer.json, a model's folder or hub id (minilm)")
    add("--positions", type=int, default=512, metavar="N", help="tokens that the model has positions for (512)")
    add("--window-overlap", type=int, default=OVERLAP, metavar="N", help=f"tokens that windows share ({OVERLAP})")
    add("--max-question-tokens", type=int, default=MAX_QUESTION, metavar="N", help=f"longest question ({MAX_QUESTION})")
    options = parser.parse_args(argv)
    tokenizer = load_tokenizer(options.tokenizer)
    max_lengths = [length for length in MAX_LENGTHS if length <= options.positions] or [options.positions]
    sizes = (options.window_overlap, options.max_question_tokens)
    cut_to = (MAX_LENGTH + sum(sizes), *sizes)  # any length that leaves room
    measured = {}
    for number, file in enumerate(options.files, start=1):
        data = load_dataset(file, tokenizer, cut_to, progress=progress_bar("tokenise", "chunk"))
        name = Path(file).name.split(".")[0]
        name = f"{name} ({number})" if name in measured else name
        measured[name] = measure_lengths(data.examples, data.windows, *sizes, max_lengths)
    print(lengths_table(measured))
    return 0


if __name__ == "__main__":
    run_command(main, "squad.audit.lengths")
