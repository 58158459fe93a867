"""The page of `minibert --serve` in headless Chromium: what a person would do, end to end, with the shipped adapter.

Needs what chromium.py says. MINIBERT_SCREENSHOTS=DIR keeps two pictures there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

pytest.importorskip("chromium")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

VIN = (
    "Vin is a Mistborn who grew up on the streets of Luthadel. Kelsier, the Survivor of Hathsin, "
    "took her into his crew and taught her to use her powers."
)
URDU = "\u0644\u0627\u06c1\u0648\u0631 \u0634\u06c1\u0631 \u06c1\u06d2\u06d4"


@pytest.fixture(scope="module")
def address(has_minilm):
    """A server in a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "minibert.qa", "--serve", "--port", "0", "--precision", "fp32"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield server.stdout.readline().split()[0]
    server.terminate()
    server.wait(timeout=30)
    server.stdout.close()


@pytest.fixture
def page(browser, address):
    browser.set_window_size(1000, 900)
    browser.get(address)
    return browser


def ask(page, question, context=None):
    """Type, press Enter, wait for the answer; returns it."""
    if context is not None:
        box = page.find_element(By.ID, "context")
        # send_keys cannot type characters beyond the basic plane, a paste can
        page.execute_script("arguments[0].value = arguments[1]", box, context)
    field = page.find_element(By.ID, "question")
    field.clear()
    field.send_keys(question, Keys.ENTER)
    button = page.find_element(By.ID, "ask")
    WebDriverWait(page, 60).until(lambda _: button.is_enabled() and text_of(page, "score").startswith("probability"))
    return text_of(page, "answer")


def text_of(page, id):
    return page.find_element(By.ID, id).text


def marks(page):
    return [mark.text for mark in page.find_elements(By.TAG_NAME, "mark")]


def picture(page, name):
    if folder := os.environ.get("MINIBERT_SCREENSHOTS"):
        page.save_screenshot(str(Path(folder) / name))


def test_the_answer_is_marked_in_place(page):
    answer = ask(page, "Who took Vin into his crew?", VIN)
    assert "Kelsier" in answer
    assert marks(page) == [answer]
    assert text_of(page, "passage") == VIN
    assert text_of(page, "score").endswith("%")
    picture(page, "page-answer.png")


def test_offsets_hold_behind_characters_of_two_utf16_units(page):
    context = "\U0001f5e1\U0001f5e1\U0001f5e1 In the year 1066 " + VIN
    answer = ask(page, "Who took Vin into his crew?", context)
    assert "Kelsier" in answer
    assert marks(page) == [answer]


def test_an_unanswerable_question_is_told(page):
    assert ask(page, "When was the Eiffel Tower built?", VIN) == "The text does not say."
    assert marks(page) == []
    page.set_window_size(500, 1000)
    picture(page, "page-no-answer.png")


def test_the_slider_asks_again_for_another_share_of_answerable_questions(page):
    assert ask(page, "When was the Eiffel Tower built?", VIN) == "The text does not say."
    slider = page.find_element(By.ID, "share")
    assert slider.accessible_name == "How readily to answer"
    assert slider.get_attribute("aria-valuetext") == page.find_element(By.ID, "meaning").text
    usual = slider.get_attribute("value")
    assert "have an answer in their text" in text_of(page, "meaning")
    slider.send_keys(Keys.END)
    WebDriverWait(page, 30).until(lambda _: text_of(page, "answer") != "The text does not say.")
    assert marks(page) == [text_of(page, "answer")]
    assert "100.0%" in text_of(page, "meaning")
    slider.send_keys(Keys.HOME)
    WebDriverWait(page, 30).until(lambda _: text_of(page, "answer") == "The text does not say.")
    assert float(slider.get_attribute("value")) < float(usual)


def test_of_two_replies_that_overtake_each_other_the_later_question_counts(page):
    ask(page, "Who took Vin into his crew?", VIN)
    page.execute_script(
        """
        window.replies = [];
        window.fetch = () => new Promise(done => window.replies.push(answer => done(new Response(
            JSON.stringify({ candidates: [{ answer, score: 0.5, start: 0, end: 3 }] })))));
        for (const time of [1, 2]) document.getElementById("form").requestSubmit();
        window.replies[1]("later");
        """
    )
    WebDriverWait(page, 30).until(lambda _: text_of(page, "answer") == "later")
    page.execute_script("window.replies[0]('earlier')")
    page.execute_async_script("setTimeout(arguments[0], 200)")
    assert text_of(page, "answer") == "later"


def test_a_candidate_can_be_chosen_with_the_keyboard(page):
    ask(page, "Who took Vin into his crew?", VIN)
    candidates = page.find_elements(By.CSS_SELECTOR, "#candidates button")
    other = next(c for c in candidates[1:] if "does not say" not in c.text)
    wanted = other.find_element(By.TAG_NAME, "bdi").text
    for _ in range(20):  # from the question field on with Tab alone
        page.switch_to.active_element.send_keys(Keys.TAB)
        if page.switch_to.active_element == other:
            break
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert marks(page) == [wanted]
    assert other.get_attribute("aria-pressed") == "true"


def test_markup_stays_text(page):
    evil = (
        "The tag <script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> is text. "
        + VIN
    )
    ask(page, "Who took Vin into his crew?", evil)
    assert text_of(page, "passage") == evil
    assert page.title == "Ask a text"
    assert len(page.find_elements(By.TAG_NAME, "script")) == 1
    assert page.find_elements(By.TAG_NAME, "img") == []


def test_errors_of_the_server_are_shown(page):
    page.find_element(By.ID, "context").send_keys("text")
    page.find_element(By.ID, "question").send_keys("   ", Keys.ENTER)
    WebDriverWait(page, 30).until(lambda _: text_of(page, "answer"))
    assert text_of(page, "answer") == "question is blank, expected a question"


def test_phone_width_and_right_to_left(page):
    page.set_window_size(500, 800)
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    )
    ask(page, "Kelsier?", URDU + " " + "x" * 300)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    direction = "return getComputedStyle(document.getElementById('passage')).direction"
    assert page.execute_script(direction) == "rtl"
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
