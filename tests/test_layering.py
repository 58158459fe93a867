"""Who may import whom, and that importing does nothing else."""

import ast
import importlib
import subprocess
import sys

import pytest
from helpers import ROOT

# Each room and those that it may import, besides itself: always further down, never beside.
ROOMS = {
    "minihub": set(),
    "minirun": {"minihub"},
    "minibert": {"minihub", "minirun"},
    "minigpt": {"minihub", "minirun"},
    "lora": {"minihub"},
    "squad": {"minihub"},
    "squad.augment": {"minihub", "minirun", "squad"},
    "squad.report": {"minihub", "minirun", "squad"},
    "squad.audit": {"minihub", "minirun", "squad"},
    "minibert.qa": {"minihub", "minirun", "minibert", "lora", "squad"},
    "minigpt.qa": {"minihub", "minirun", "minigpt", "lora", "squad"},
    "train_gpt": {"minihub", "minirun", "minigpt", "minigpt.qa", "lora", "squad"},
    "train": {"minihub", "minirun", "minibert", "minibert.qa", "lora", "squad", "squad.augment"},
}
PACKAGES = [room for room in ROOMS if room not in ("train", "train_gpt")]
OUTSIDE = {"torch", "numpy", "tokenizers", "safetensors", "tqdm"}
ONLY_INSIDE_FUNCTIONS = {"onnxruntime", "huggingface_hub", "wandb"}  # not among the five: imported where they are used


def files_of(room):
    folder = ROOT / room.replace(".", "/")
    return sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imports(path):
    """(module, whether at module level) of all that a file imports; names of modules in full, as in `a.b`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module, node in tree.body


def room_of(module):
    """`squad.report.page` -> `squad.report`; None for a module that is not ours."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len, default=None)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_is_below_it(room):
    for path in files_of(room):
        for module, at_module_level in imports(path):
            name = module.split(".")[0]
            if (below := room_of(module)) is not None:
                assert below in ROOMS[room] | {room}, f"{path} imports {module}"
            elif name in ONLY_INSIDE_FUNCTIONS:
                assert not at_module_level, f"{path} imports {module} at module level"
            else:
                assert name in OUTSIDE | sys.stdlib_module_names, f"{path} imports {module}"


def has_circle(below):
    """Whether somebody who walks downwards from a room can come back to it. below: room -> rooms that it imports."""
    left = dict(below)
    while free := [room for room, needs in left.items() if not needs & left.keys()]:
        for room in free:
            del left[room]
    return bool(left)


def test_there_is_no_circle_of_rooms_or_modules():
    assert has_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})
    assert not has_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert not has_circle(ROOMS)
    modules = {}
    for path in [file for room in ROOMS for file in files_of(room)]:
        name = str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        modules[name] = {module for module, _ in imports(path)}
    assert not has_circle(modules)


def test_the_rooms_are_those_that_an_install_has():
    import tomllib

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(packages) == sorted(PACKAGES)
    on_disk = {path.parent for room in ("minihub", "minirun", "minibert", "minigpt", "lora", "squad")
               for path in (ROOT / room).rglob("*.py")}  # fmt: skip
    assert {str(folder.relative_to(ROOT)).replace("/", ".") for folder in on_disk} == set(packages)
    # No other script at the top, and none that is not meant to be started.
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["train.py", "train_gpt.py"]


@pytest.mark.parametrize(("file", "most"), [("train.py", 350), ("train_gpt.py", 300), ("minigpt/model.py", 180)])
def test_what_is_read_in_one_sitting_stays_short(file, most):
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= most


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_complete(package):
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    # ruff's order: names in capitals, then classes, then functions
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    public = {n for n, v in vars(module).items() if not n.startswith("_") and not isinstance(v, type(sys))}
    assert public == set(names)


def test_tab_in_a_notebook_shows_what_is_for_its_user():
    import minibert

    shown = [name for name in dir(minibert) if not name.startswith("_")]
    assert shown == sorted(minibert.__all__)
    assert len(shown) <= 14
    import squad

    assert len(squad.__all__) <= 36


def test_importing_prints_nothing_and_leaves_global_state_alone(tmp_path):
    code = (
        "import torch, signal, os, warnings; warnings.simplefilter('error')\n"
        "look = lambda: (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(),"
        " signal.getsignal(signal.SIGINT), dict(os.environ), torch.is_grad_enabled())\n"
        "before = look()\n"
        "import minihub, minirun, minibert.qa, minigpt.qa, lora, squad.report, squad.audit, squad.augment\n"
        "import train, train_gpt\n"
        "assert look() == before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
