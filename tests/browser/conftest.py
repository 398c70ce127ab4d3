"""Fixtures: one JupyterLab and one Chromium for all browser tests, a fresh page for each."""

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from . import driver


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Lab]:
    with driver.serve(tmp_path_factory.mktemp("lab")) as running:
        yield running


# Playwright holds an event loop while it runs, which tests in other folders could not stand.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    executable = driver.find_chromium()
    if executable is None:
        reason = "no Chromium was found: install one (Debian: package chromium) or set QDELTA_CHROMIUM to its path"
        # A skipped test would pass for a proof on CI.
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with driver.chromium(executable) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must end without errors and without having asked for anything outside this machine."""
    with driver.open_page(browser) as opened:
        yield opened
        driver.assert_clean(opened)
