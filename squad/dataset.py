"""A SQuAD file -> what training and evaluation take."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from squad.cache import cached_windows
from squad.examples import DataError, Example, read_examples
from squad.windowing import MAX_LENGTH, MAX_QUESTION, OVERLAP, make_windows
from squad.windows import Windows

WORTH_CACHING = 20_000  # questions: fewer are tokenised in under two seconds


@dataclass(frozen=True)
class Dataset:
    """The questions of a file, and the windows made of them, in the same order."""

    examples: list[Example]
    windows: Windows
    left_out: int = 0  # unanswerable questions, when only answerable ones were asked for
    malformed: tuple[str, ...] = ()  # what is wrong with the questions that were skipped
    made: int = 0  # of the questions, those that `extend` added

    def summary(self) -> str:
        """How much data it is, in words."""
        share = sum(example.is_impossible for example in self.examples) / len(self.examples)
        which = f"{self.left_out:,} unanswerable left out" if self.left_out else f"{share:.0%} unanswerable"
        text = f"{len(self.examples):,} questions ({which}), {len(self.windows):,} windows"
        if self.made:
            text += f"; {self.made:,} of the questions were made"
        if self.malformed:
            text += f"; {len(self.malformed)} malformed questions left out, the first: {self.malformed[0]}"
        return text


def load_examples(
    path: str | Path,
    limit: int = 0,
    answerable_only: bool = False,
    on_error: Callable[[DataError], None] | None = None,
) -> tuple[list[Example], int]:
    """The first `limit` questions of a SQuAD file (0: all), and how many without an answer were passed over.

    Args: limit, answerable_only: as for `load_dataset`; on_error: as for `read_examples`.
    Raises DataError when no question is left.
    """
    every = read_examples(path, on_error)
    kept = [i for i, example in enumerate(every) if example.answers or not answerable_only][: limit or None]
    if not kept:
        raise DataError(f"{path}: holds no usable question" + " with an answer" * answerable_only)
    seen = kept[-1] + 1 if len(kept) == limit else len(every)
    return [every[i] for i in kept], seen - len(kept)


def load_dataset(
    path: str | Path,
    tokenizer: Tokenizer,
    sizes: tuple[int, int, int] = (MAX_LENGTH, OVERLAP, MAX_QUESTION),
    limit: int = 0,
    skip_bad: bool = False,
    progress: Callable[[Iterable], Iterable] = iter,
    answerable_only: bool = False,
    extend: Callable[[list[Example]], list[Example]] = lambda examples: [],
) -> Dataset:
    """Read a SQuAD file and cut it into windows; the windows of a large file are cached on disk.

    Args:
        tokenizer, progress: as for `make_windows`.
        sizes: max_length, overlap and max_question_tokens, as for `make_windows`.
        limit: only the first so many questions; 0: all.
        answerable_only: leave out questions without an answer, before `limit` counts.
        extend: makes further questions of those read, such as `squad.augment.augment`; their ids must determine them.
        skip_bad: leave out malformed questions; otherwise the first one raises.
    Raises DataError when no question is left.
    """
    bad: list[DataError] = []
    examples, left_out = load_examples(path, limit, answerable_only, bad.append if skip_bad else None)
    added = extend(examples)
    examples = examples + added
    if len(examples) < WORTH_CACHING:
        windows = make_windows(examples, tokenizer, *sizes, progress)
    else:
        windows = cached_windows(path, examples, tokenizer, sizes, progress)
    return Dataset(examples, windows, left_out, tuple(map(str, bad)), len(added))
