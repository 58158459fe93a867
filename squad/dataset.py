"""A SQuAD file -> what training and evaluation take."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from squad.cache import cached_windows
from squad.examples import DataError, Example, read_examples
from squad.windows import Windows, make_windows

WORTH_KEEPING = 20_000  # questions: fewer tokenise in under two seconds


@dataclass(frozen=True)
class Dataset:
    examples: list[Example]
    windows: Windows
    left_out: int = 0  # questions without an answer, where only the others were asked for


def load_dataset(
    path: str | Path,
    tokenizer: Tokenizer,
    sizes: tuple[int, int, int] = (384, 128, 64),
    limit: int = 0,
    skip_bad: Callable[[str], None] | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    answerable_only: bool = False,
) -> Dataset:
    """Read a SQuAD file and cut it into windows; those of a large file are kept for the next time.

    Args:
        sizes: max_length, overlap and max_question_tokens, as for `make_windows`; tokenizer and progress too.
        limit: only the first so many questions; 0: all.
        answerable_only: leave out the questions without an answer, before the limit counts.
        skip_bad: called with a line on each malformed question, which is left out; without it the first one raises.
    Raises DataError when no question is left.
    """
    every = read_examples(path, skip_bad)
    examples = [example for example in every if example.answers] if answerable_only else every
    left_out = len(every) - len(examples)
    examples = examples[:limit] if limit else examples
    if not examples:
        raise DataError(f"{path}: holds no usable question" + " with an answer" * answerable_only)
    if len(examples) < WORTH_KEEPING:
        return Dataset(examples, make_windows(examples, tokenizer, *sizes, progress), left_out)
    return Dataset(examples, cached_windows(path, examples, tokenizer, sizes, progress), left_out)
