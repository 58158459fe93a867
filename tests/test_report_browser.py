"""The page of squad.report in headless Chromium: filter and search, phone and dark, nothing blocked and nothing run.

Needs what chromium.py says.
"""

import gzip
import re

import pytest
from helpers import DATA
from reports import EVIL, URDU, VIN, make_run, question

pytest.importorskip("chromium")

from selenium.webdriver.common.by import By

from squad.report.__main__ import main

WRONG = 60  # questions answered wrongly: more than the page shows at once
UNBROKEN = "x" * 300


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    many = [question(f"n{i}", VIN, "Kelsier", "Luthadel", "") for i in range(WRONG)]
    many += [question("evil", VIN, EVIL, "books", ""), question("silent", VIN, "Luthadel", "", "Elend")]
    known = [
        line.split("\t") for line in gzip.decompress((DATA / "dev-causes.tsv.gz").read_bytes()).decode().splitlines()
    ]
    one_of_each = {cause: id for id, cause in known}.values()  # for the chart by cause, whose names are the longest
    texts = {
        "Vin": (VIN, many),
        "Causes": (VIN, [question(id, VIN, "", "", "Elend") for id in one_of_each]),
        "Lahore": (URDU, [question("invented", URDU, "", URDU[:5], "")]),
        UNBROKEN: (UNBROKEN, [question("long", UNBROKEN, "", UNBROKEN, "")]),
    }
    log = [{"step": 5 * i, "loss": 4 / i, "lr": 1e-4 * i, "spikes": 0} for i in range(1, 9)]
    log += [{"step": 40, "exact": 10.0, "f1": 20.0}]
    run = make_run(tmp_path_factory.mktemp("report") / "run", texts, log, comment=EVIL, train=UNBROKEN)
    assert main([str(run)]) == 0
    return (run / "report.html").as_uri()


@pytest.fixture
def page(browser, address):
    browser.set_window_size(1100, 900)
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
    assert browser.title == "Run run"
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def shown(page):
    return [error for error in page.find_elements(By.CLASS_NAME, "error") if error.is_displayed()]


def choose(page, kind):
    page.find_element(By.CSS_SELECTOR, f'#kind option[value="{kind}"]').click()


def dark(page, scheme="dark"):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def light_of(page, selector, name):
    """The lightness, 0 to 255, of a computed colour."""
    code = f"return getComputedStyle(document.querySelector('{selector}'))['{name}']"
    return sum(int(part) for part in re.findall(r"\d+", page.execute_script(code))[:3]) / 3


def test_errors_are_filtered_by_kind(page):
    kinds = {"wrong span": 1 + WRONG, "answered an unanswerable": 2, "silent on an answerable": 1}
    assert len(shown(page)) == 25
    for kind, count in kinds.items():
        choose(page, kind)
        assert {error.get_attribute("data-kind") for error in shown(page)} == {kind}
        assert len(shown(page)) == min(25, count)
        assert page.find_element(By.ID, "found").text.startswith(f"{count} error")
    choose(page, "")
    assert page.find_element(By.ID, "found").text == f"{WRONG + 4} errors, the first 25 shown"


def test_more_are_shown_until_there_are_no_more(page):
    more = page.find_element(By.ID, "more")
    counts = [len(shown(page))]
    while more.is_displayed():
        more.click()
        counts.append(len(shown(page)))
    assert counts == [25, 50, WRONG + 4]


def test_errors_are_searched_in_questions_answers_and_texts(page):
    field = page.find_element(By.ID, "search")
    for typed, count in (("is EVIL", 1), (URDU[:5], 1), ("kelsier elend", 25), ("no such words", 0), ("wrong span", 0)):
        field.clear()
        field.send_keys(typed)
        assert len(shown(page)) == count, typed
    assert page.find_element(By.ID, "found").text == "0 errors"
    field.clear()
    field.send_keys("who is silent?")
    choose(page, "wrong span")
    assert shown(page) == []
    choose(page, "silent on an answerable")
    assert len(shown(page)) == 1


def test_an_error_opens_to_its_text_with_both_spans_marked(page):
    page.find_element(By.ID, "search").send_keys("who is evil?")
    (error,) = shown(page)
    error.find_element(By.TAG_NAME, "summary").click()
    assert error.find_element(By.CLASS_NAME, "context").text == VIN
    assert {m.get_attribute("class"): m.text for m in error.find_elements(By.TAG_NAME, "mark")} == {
        "gold": EVIL,
        "said": "books",
    }
    assert page.find_elements(By.TAG_NAME, "img") == []


@pytest.mark.parametrize("width", [360, 768, 1100])
def test_nothing_scrolls_sideways(page, width):
    size = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    code = "return Array.from(document.querySelectorAll('svg text'), text => text.getBoundingClientRect().height)"
    assert min(page.execute_script(code)) >= 10  # pixels: still to be read


def test_right_to_left_texts_are_set_so(page):
    page.find_element(By.ID, "search").send_keys(URDU[:5])
    (error,) = shown(page)
    error.find_element(By.TAG_NAME, "summary").click()
    context = error.find_element(By.CLASS_NAME, "context")
    assert context.value_of_css_property("direction") == "rtl"
    assert error.find_element(By.CLASS_NAME, "question").value_of_css_property("direction") == "ltr"


def test_dark_and_light(page):
    for scheme, is_dark in (("dark", True), ("light", False)):
        dark(page, scheme)
        paper = light_of(page, "body", "backgroundColor")
        assert (paper < 60) == is_dark
        for selector, name in (("body", "color"), ("svg text", "fill"), ("figcaption", "color"), (".line", "stroke")):
            assert abs(light_of(page, selector, name) - paper) > 80, (scheme, selector)


def test_charts_stay_inside_their_pictures(page):
    """Every label lies within its chart: nothing is cut off."""
    code = """return Array.from(document.querySelectorAll("svg text"), text => {
      const inner = text.getBoundingClientRect(), outer = text.ownerSVGElement.getBoundingClientRect();
      return [text.textContent, inner.left >= outer.left - 1 && inner.right <= outer.right + 1
        && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1];
    })"""
    assert [text for text, inside in page.execute_script(code) if not inside] == []
