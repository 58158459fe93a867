"""Who may import whom, and that importing does nothing else."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("minibert", "lora", "squad")
ALLOWED = {"torch", "numpy", "tokenizers", "safetensors"}


def imported(path: Path, everywhere: bool) -> set[str]:
    """Top-level names of the modules that a file imports: all of them, or only those at module level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else tree.body
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_do_not_import_one_another(package):
    files = list((ROOT / package).glob("*.py"))
    assert files
    for path in files:
        outside = imported(path, everywhere=True) - sys.stdlib_module_names - {package}
        # huggingface_hub comes with tokenizers, wandb with an extra: each is imported only where it is needed
        only_inside = {"huggingface_hub", "wandb"}
        assert outside <= ALLOWED | only_inside, path
        assert not only_inside & imported(path, everywhere=False), path


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_importable_sorted_and_complete(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(set(module.__all__))
    public = {n for n, v in vars(module).items() if not n.startswith("_") and not isinstance(v, type(sys))}
    assert public == set(module.__all__)


def test_importing_prints_nothing_and_leaves_global_state_alone(tmp_path):
    code = (
        "import torch, signal, os, warnings; warnings.simplefilter('error')\n"
        "look = lambda: (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(),"
        " signal.getsignal(signal.SIGINT), dict(os.environ), torch.is_grad_enabled())\n"
        "before = look()\n"
        "import minibert, lora, squad, train\n"
        "assert look() == before\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
