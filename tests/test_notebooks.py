"""notebooks/: each runs from top to bottom, its own asserts included, and is as short as promised."""

import json
import statistics

import pytest
from helpers import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path, kind):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_holds_its_outputs_and_ends_in_three_questions(path):
    code = cells(path, "code")
    assert len(code) <= 25
    assert statistics.median(len("".join(cell["source"]).splitlines()) for cell in code) <= 7
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])
    last = "".join(cells(path, "markdown")[-1]["source"])
    assert last.startswith("## Questions for you") and last.count("<details><summary>Answer</summary>") == 3
    assert path.stat().st_size < 200_000
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, has_minilm):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    source = path.read_text(encoding="utf-8")
    for name in ("ipykernel", "matplotlib", "captum", "bertviz", "peft"):
        if name in source or name in ("ipykernel", "matplotlib"):
            pytest.importorskip(name)
    notebook = nbformat.reads(source, 4)
    there = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=there).execute()


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 6
