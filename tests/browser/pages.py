"""Fixtures and measures for tests of HTML pages in a real browser: Chromium, driven by Playwright.

`tests/conftest.py` makes the fixtures available to all tests. Set `CHROME` to use another browser than the `chromium`
or `google-chrome` of the path.
"""

import os
import pathlib
import shutil
from urllib.parse import urlsplit

import pytest

CHROMIUM = os.environ.get("CHROME") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
WIDTHS = (400, 1400)
LOCAL = "http://127.0.0.1:"
_OFFLINE = ("file", "data", "blob", "about")


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window; the tests that use it are skipped where none is installed.

    It lives for one module: while Playwright runs, the thread cannot start an event loop of its own, as Orbax does.
    """
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome found; install one (apt-get install chromium), or set CHROME to it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a file, or an address on this machine, and returns its Playwright `Page`.

    The test fails at its end if any of its pages logged an error or a warning, raised an exception, opened a dialog
    or asked for anything from another server.
    """
    contexts, faults = [], []

    def open_file(path, *, width=1400, height=900, dark=False, fragment=""):
        address = str(path) if str(path).startswith(LOCAL) else pathlib.Path(path).resolve().as_uri() + fragment
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda line: faults.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: None if _is_own(request.url, address) else faults.append(request.url),
        )
        page.goto(address)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert not faults, faults


def _is_own(url, address):
    """Return whether a request stays on this machine, at the server of the page if it has one."""
    return urlsplit(url).scheme in _OFFLINE or urlsplit(url)[:2] == urlsplit(address)[:2]


def find_overlaps(page, selector, *, tolerance=1.5):
    """Return the texts of each two visible elements that overlap by more than `tolerance` pixels in both directions.

    An element never overlaps with its own parts. A rotated text is measured by the box around it.
    """
    return page.evaluate(
        """([selector, tolerance]) => {
          const shown = [...document.querySelectorAll(selector)]
            .filter((one) => one.checkVisibility() && one.textContent.trim())
            .map((one) => ({ one, box: one.getBoundingClientRect() }));
          const found = [];
          shown.forEach((a, place) => {
            for (const b of shown.slice(place + 1)) {
              if (a.one.contains(b.one) || b.one.contains(a.one)) continue;
              const width = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
              const height = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
              if (width > tolerance && height > tolerance) {
                found.push([a.one.textContent.trim(), b.one.textContent.trim()]);
              }
            }
          });
          return found;
        }""",
        [selector, tolerance],
    )


def hidden_width(page):
    """Return the pixels by which the page is wider than the window: 0 unless it scrolls sideways."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def contrast(page, selector):
    """Return the smallest contrast of a visible element's text with its background, as WCAG 2 defines it, 1 to 21."""
    return page.evaluate(
        """(selector) => {
          const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
          const luminance = (colors) => {
            canvas.clearRect(0, 0, 1, 1);
            for (const color of colors) {
              canvas.fillStyle = color;
              canvas.fillRect(0, 0, 1, 1);
            }
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
              .map((value) => value / 255)
              .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const paper = matchMedia("(prefers-color-scheme: dark)").matches ? "#000" : "#fff";
          let least = 21;
          for (const element of document.querySelectorAll(selector)) {
            if (!element.checkVisibility() || !element.textContent.trim()) continue;
            const behind = [];
            for (let one = element; one; one = one.parentElement) behind.unshift(getComputedStyle(one).backgroundColor);
            const style = getComputedStyle(element);
            const ink = element instanceof SVGElement ? style.fill : style.color;
            const [dark, light] = [luminance([paper, ...behind]), luminance([paper, ...behind, ink])]
              .sort((a, b) => a - b);
            least = Math.min(least, (light + 0.05) / (dark + 0.05));
          }
          return least;
        }""",
        selector,
    )
