"""How much there is to read: files and lines of one training step and one answered question, decisions, public names.

    python bench/readability.py [TREE ...]      checkouts of this or an older layout; the current folder by default

The files of a step or a question are those of the checkout of which a function runs, seen by tracing. Their lines are
those of the whole files, since a reader opens files, and beside them those of the functions that ran.
"""

import ast
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

LOOP = ("train_loop", "training_step")
PACKAGES = ("minihub", "minirun", "minibert", "minibert.qa", "lora", "squad")
DECISIONS = (ast.If, ast.IfExp)
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try)


class Tracer:
    """Notes the code objects of this checkout that run while it is active."""

    def __init__(self, tree: Path):
        self.tree, self.seen = str(tree), set()

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename.startswith(self.tree):
            self.seen.add(frame.f_code)

    def around(self, function):
        def traced(*args, **more):
            sys.settrace(self)
            try:
                return function(*args, **more)
            finally:
                sys.settrace(None)

        return traced

    def summary(self) -> dict:
        files = sorted({code.co_filename for code in self.seen})
        functions = {(code.co_filename, n) for code in self.seen for *_, n in code.co_lines() if n}
        lines = {file: len(Path(file).read_text().splitlines()) for file in files}
        names = {file.removeprefix(self.tree + "/"): count for file, count in lines.items()}
        return {"files": len(files), "lines": sum(lines.values()), "lines of functions": len(functions), "names": names}


def trace(tree: Path, arguments: list[str]) -> dict:
    """In a process whose current folder is the checkout: one step of train.py, and one question to its reader."""
    sys.path.insert(0, str(tree))
    train, squad = importlib.import_module("train"), importlib.import_module("squad")
    step, question = Tracer(tree), Tracer(tree)
    train.training_step = step.around(train.training_step)
    train.main(arguments)
    answer = importlib.import_module("minibert.qa" if (tree / "minibert" / "qa").is_dir() else "answer")
    reader = answer.load_reader(arguments[arguments.index("--output") + 1])
    question.around(reader)("who is vin", "vin is a mistborn")
    names = {
        name: len(importlib.import_module(name).__all__)
        for name in PACKAGES
        if (tree / name.replace(".", "/")).is_dir()
    }
    assert isinstance(reader, squad.Reader)
    return {"step": step.summary(), "question": question.summary(), "public names": names}


def nesting(node: ast.AST, depth: int = 0) -> int:
    inside = [nesting(child, depth + isinstance(child, BLOCKS)) for child in ast.iter_child_nodes(node)]
    return max([depth, *inside])


def decisions(tree: Path) -> dict:
    """`if`, `and` and `or` in the loop and the step of train.py, per 100 lines, and their deepest nesting."""
    functions = [f for f in ast.parse((tree / "train.py").read_text()).body if getattr(f, "name", "") in LOOP]
    nodes = [node for function in functions for node in ast.walk(function)]
    found = sum(isinstance(node, DECISIONS) for node in nodes)
    found += sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    found += sum(len(node.ifs) for node in nodes if isinstance(node, ast.comprehension))
    lines = sum(function.end_lineno - function.lineno + 1 for function in functions)
    return {"decisions": found, "lines": lines, "per 100": 100 * found / lines, "nesting": max(map(nesting, functions))}


def sizes(tree: Path) -> dict:
    """Files and lines in all, without tests, bench and experiments."""
    folders = [tree / name for name in ("minihub", "minirun", "minibert", "lora", "squad")]
    files = [*tree.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return {"files": len(files), "lines": sum(len(path.read_text().splitlines()) for path in files)}


def main() -> None:
    here = Path(__file__).resolve().parent.parent
    if sys.argv[1:2] == ["--trace"]:
        print(json.dumps(trace(Path.cwd().resolve(), sys.argv[2:])))
        return
    sys.path[:0] = [str(here), str(here / "tests")]
    from helpers import flags, letter_tokenizer, write_tiny

    for tree in [Path(name).resolve() for name in sys.argv[1:]] or [here]:
        with tempfile.TemporaryDirectory() as name:
            write_tiny(Path(name), letter_tokenizer())
            arguments = flags(Path(name), Path(name) / "run", "--epochs", "1")
            command = [sys.executable, __file__, "--trace", *arguments]
            done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(done.stdout.splitlines()[-1]) | {"loop and step": decisions(tree), "in all": sizes(tree)}
        print(f"{tree}\n{json.dumps(figures, indent=2)}")


if __name__ == "__main__":
    main()
