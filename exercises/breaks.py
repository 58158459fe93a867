"""Six famous bugs, each one line: where it goes, and which tests to ask."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
NEEDED = ("minihub", "minirun", "minibert", "minigpt", "lora", "squad", "tests", "data", "experiments", "bench")


class Break(NamedTuple):
    """A line that is replaced. tests: files of tests/, one of which notices."""

    what: str
    file: str
    right: str
    wrong: str
    tests: str


BREAKS = (
    Break("the padding token learns like any other word (no padding_idx)", "minibert/model.py",
          ", padding_idx=config.pad_token_id", "", "test_model.py"),
    Break("masked scores are -1e9, which float16 cannot hold", "minibert/model.py",
          "masked_fill(~mask, -math.inf)", "masked_fill(~mask, -1e9)", "test_numerics.py"),
    Break('the loss ignores position 0, which stands for "no answer"', "squad/loss.py",
          'positions, reduction="none")', 'positions, reduction="none", ignore_index=0)', "test_spans.py"),
    Break("gradients are clipped before they are unscaled", "train.py",
          "    scaler.unscale_(optimizer)  #", "    #", "test_step.py"),
    Break('the threshold is tuned on answers that are already "" above 0', "squad/evaluation.py",
          "_, f1 = question_scores(examples, predictions.answers, normalize)",
          "_, f1 = question_scores(examples, apply_threshold(predictions, 0.0), normalize)", "test_metrics.py"),
    Break("the new head is frozen with the rest", "lora/inject.py",
          "        model.get_submodule(head).requires_grad_(True)", "        pass", "test_lora.py"),
)  # fmt: skip


def patched(number: int) -> tuple[Path, str]:
    """The file of break `number` (from 1) and its text with the bug in it."""
    bug = BREAKS[number - 1]
    text = (ROOT / bug.file).read_text(encoding="utf-8")
    if text.count(bug.right) != 1:
        raise ValueError(f"{bug.file} holds {bug.right!r} {text.count(bug.right)} times, expected once")
    return ROOT / bug.file, text.replace(bug.right, bug.wrong)


def failing_tests(number: int) -> dict[str, str]:
    """The tests that fail with break `number` -> how; run in a copy of the repository, and this one stays as it is."""
    path, text = patched(number)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in NEEDED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("train.py", "train_gpt.py", "pyproject.toml"):
            shutil.copy(ROOT / file, copy / file)
        (copy / path.relative_to(ROOT)).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider"]
        command.append(f"tests/{BREAKS[number - 1].tests}")
        wide = os.environ | {"COLUMNS": "200"}  # pytest cuts its lines to the width of the terminal
        done = subprocess.run(command, cwd=copy, env=wide, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ValueError(f"the tests did not run ({' '.join(said)}): pip install -e '.[test]'")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return dict(line.split(" ", 1)[1].partition(" - ")[::2] for line in lines)


def names_of_tests(number: int) -> list[str]:
    """The tests in the file that is asked about break `number`."""
    text = (ROOT / "tests" / BREAKS[number - 1].tests).read_text(encoding="utf-8")
    return re.findall(r"^def (test_\w+)", text, re.MULTILINE)
