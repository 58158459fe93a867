"""Headless Chromium for the tests of pages; those that import this are skipped, and say so, where it is not installed.

Needs Debian's chromium and chromium-driver, and selenium (extra `browser`).
"""

import shutil

import pytest

pytest.importorskip("selenium", reason="needs: pip install -e '.[browser]'")

from selenium import webdriver

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-sync --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-quic --window-size=1000,900"
)


def start(folder):
    """Headless Chromium with a fresh profile in this folder; its console is kept."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
