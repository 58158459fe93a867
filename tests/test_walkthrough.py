"""docs/walkthrough.md and its pictures show what their code gives, to the last digit but one."""

import itertools
import re
import sys

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import walkthrough

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
PICTURES = ("attention", "lora", "model", "scores", "windows")


def differences(shown: str, found: str) -> list[tuple[str, str]]:
    """Lines that differ in their words, or in a number by more than one unit of its last decimal.

    Sums are rounded differently from processor to processor, so 0.25 may be shown as 0.2 here and 0.3 there.
    """
    pairs = itertools.zip_longest(shown.splitlines(), found.splitlines(), fillvalue="(no line)")
    return [(a, b) for a, b in pairs if not alike(a, b)]


def alike(a: str, b: str) -> bool:
    squeezed = [re.sub(r"\s+", " ", NUMBER.sub("#", line)) for line in (a, b)]  # a minus sign moves what is beside it
    if squeezed[0] != squeezed[1]:
        return False
    return all(
        abs(float(x) - float(y)) <= (1.01 * 10.0 ** -len(x.partition(".")[2]) if "." in x else 0)
        for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)
    )


def test_numbers_may_differ_in_their_last_decimal_only():
    assert not differences("a 0.25 of 3\nb", "a 0.24 of 3\nb")
    for other in (
        "a 0.23 of 3\nb",
        "a 0.25 of 4\nb",
        "b 0.25 of 3\nb",
        "a 0.25 of 3",
        "a 0.25 of 3\nb\nc",
        "a 25 of 3\nb",
    ):
        assert differences("a 0.25 of 3\nb", other), other


@pytest.fixture(scope="module")
def page():
    return walkthrough.PAGE.read_text(encoding="utf-8")


def test_the_page_shows_what_its_code_gives(has_minilm, page, tmp_path):
    assert not differences(page, walkthrough.run(page, tmp_path))
    assert {path.stem for path in tmp_path.iterdir()} == set(PICTURES)
    for name in PICTURES:
        shown = (walkthrough.PAGE.parent / f"{name}.svg").read_text(encoding="utf-8")
        assert not differences(shown, (tmp_path / f"{name}.svg").read_text(encoding="utf-8")), name


def test_the_page_is_short_and_shows_every_picture(page):
    assert len(page.splitlines()) <= 400
    assert set(re.findall(r'src="(\w+)\.svg"', page)) == set(PICTURES)


def test_a_wrong_value_on_the_page_is_found(tmp_path):
    told = "```python\nprint(1.5)\nopen(folder / 'x', 'w').close()\n```\n```text\n1.7\n```\n"
    assert differences(told, walkthrough.run(told, tmp_path)) == [("1.7", "1.5")]
    assert walkthrough.run("```python\nx = 1\n```\nwords\n", tmp_path) == "```python\nx = 1\n```\nwords\n"
