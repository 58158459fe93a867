"""README.md keeps its word: its notebook code runs and gives what it says, its links lead somewhere."""

import ast
import re

from helpers import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "data" / "README.md"]


def test_the_notebook_code_gives_the_values_in_its_comments(has_minilm):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names, checked = {}, 0
    for statement in code.splitlines():
        if not statement.strip():
            continue
        expression, _, value = statement.partition("  # -> ")
        if value:
            assert repr(eval(expression, names)) == value
            checked += 1
        else:
            exec(statement, names)
    assert checked == 4


def test_the_section_on_gpt2_is_short_and_its_notebook_line_runs(gpt_answers):
    (section,) = re.findall(r"(## GPT-2 .*?)\n## ", TEXT, re.DOTALL)
    assert len(section.splitlines()) <= 15
    (line,) = re.findall(r"notebook: `(.*?)`", section)
    names = {}
    *imports, call = line.replace("runs/answers", str(gpt_answers)).split("; ")
    exec("; ".join(imports), names)
    assert isinstance(eval(call, names), str)


def test_links_of_all_pages_lead_to_files():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        links = re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text)
        for link in links:
            assert link.startswith(("http://", "https://")) or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_first_page_is_short():
    assert len(TEXT.splitlines()) <= 150
    assert TEXT.count("<!-- run -->") == TEXT.count("<!-- test -->") == 1


def test_the_map_of_files_names_each_with_its_own_first_line():
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    for package in ("minihub", "minirun", "minibert", "minigpt", "lora", "squad"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name != "__init__.py":
                first = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
                assert f"| `{path.relative_to(ROOT)}` | {first} |" in text, path
