"""Judge what you wrote, or show a bug and ask the tests about it.

python -m exercises 3            judge step 3 (or 3 4 5) of exercises/yours.py
python -m exercises              judge all ten
python -m exercises break 2      what bug 2 is; add --run to see which tests notice it
"""

import difflib
import sys
import traceback

import torch

from exercises import judges, yours
from exercises.breaks import BREAKS, failing_tests, names_of_tests, patched
from minirun import run_command

STEPS = {
    1: ("attention", judges.attention), 2: ("encoder_layer", judges.encoder_layer),
    3: ("checkpoint_names", judges.checkpoint_names), 4: ("LoRALinear", judges.lora_linear),
    5: ("char_to_token_span", judges.char_to_token_span), 6: ("windows", judges.windows),
    7: ("span_loss", judges.span_loss), 8: ("best_span", judges.best_span),
    9: ("best_threshold", judges.best_threshold), 10: ("scores", judges.scores),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Judge or break; returns 0 when everything asked for passes."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if words[:1] == ["break"]:
        return break_it(number_of(words[1:2], len(BREAKS)), "--run" in words)
    steps = [number_of([word], len(STEPS)) for word in words] or list(STEPS)
    passed = [judged(step) for step in steps]
    return 0 if all(passed) else 1


def number_of(words: list[str], most: int) -> int:
    if not words or not words[0].isdecimal() or not 1 <= int(words[0]) <= most:
        raise ValueError(f"{' '.join(words) or 'nothing'} given, expected a number from 1 to {most}")
    return int(words[0])


def judged(step: int) -> bool:
    """Print the judgement of a step; returns whether it passes."""
    name, judge = STEPS[step]
    torch.manual_seed(0)
    try:
        judge(getattr(yours, name))
        found = "right"
    except AssertionError as error:
        found = f"not yet: {error}"
    except Exception as error:  # the learner's code may fail in any way
        found = "it fails:\n" + traceback.format_exc(limit=-2)
        if type(error) is NotImplementedError and not str(error):  # PyTorch's own say what is not implemented
            found = what_is_missing(step, error)
    print(f"{step:2} {name:20} {found}")
    return found == "right"


def what_is_missing(step: int, error: NotImplementedError) -> str:
    """In words: the function that raised this error, whose code is still to be written."""
    called = traceback.extract_tb(error.__traceback__)[-1].name
    other = next((f"{name}, step {n}" for n, (name, _) in STEPS.items() if name == called and n != step), "")
    if other:
        return f"it calls {other}, which is not written yet"
    return "not written yet" if called in (STEPS[step][0], "__init__") else f"{called}() is not written yet"


def break_it(number: int, runs: bool) -> int:
    """Show the bug; with `runs` the tests that notice it."""
    bug, (path, text) = BREAKS[number - 1], patched(number)
    before = path.read_text(encoding="utf-8").splitlines()
    lines = difflib.unified_diff(before, text.splitlines(), bug.file, f"{bug.file}, broken", lineterm="", n=2)
    print(f"{number}. {bug.what}\n" + "\n".join(lines))
    if not runs:
        print(f"\nWhich of these tests in tests/{bug.tests} notices, and by which symptom? Guess, then add --run.")
        print("\n".join(f"  {name}" for name in names_of_tests(number)))
        return 0
    print(f"\nrunning tests/{bug.tests} with it: up to half a minute", flush=True)
    failing = failing_tests(number)
    print("\n".join(f"noticed by {test}\n  {how}" for test, how in failing.items()) or "noticed by nothing")
    return 0 if failing else 1


if __name__ == "__main__":
    run_command(main, "exercises")
