"""The fixtures for pages notice what they are for."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.browser.pages import CHROMIUM, contrast, find_overlaps, hidden_width

PAGE = """<!doctype html><html><head><meta name="viewport" content="width=device-width">
<style>body { margin: 0 } i { position: absolute; top: 50px; width: 60px } #b { left: %(left)dpx }
div { width: %(width)dpx } p { color: #777; background: #fff }</style></head>
<body><i id="a">first</i><i id="b">second</i><div>wide</div><p>grey</p></body></html>"""


@pytest.fixture
def write_page(tmp_path):
    def write(**sizes):
        path = tmp_path / "page.html"
        path.write_text(PAGE % ({"left": 100, "width": 200} | sizes), encoding="utf-8")
        return path

    return write


def test_overlaps_widths_and_contrast_are_measured(open_page, write_page):
    page = open_page(write_page(), width=400)
    assert find_overlaps(page, "i") == [] and hidden_width(page) == 0
    assert contrast(page, "p") == pytest.approx(4.48, abs=0.01)  # of #777 on white, by the formula of WCAG 2
    assert find_overlaps(open_page(write_page(left=50), width=400), "i") == [["first", "second"]]
    assert hidden_width(open_page(write_page(width=650), width=400)) == 250


FAULTS = ["console.error('x')", "throw Error('x')", "alert('x')", "fetch('http://x.invalid')"]
TESTS = f"""
import pytest

@pytest.mark.parametrize("fault", {FAULTS})
def test_page(open_page, tmp_path, fault):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><script>{{fault}}</script>")
    open_page(page).wait_for_timeout(100)
"""


def outcome(folder, **environment):
    """Run tests of pages with faults in a process of its own; return the lines that pytest prints."""
    (folder / "conftest.py").write_text("from tests.browser.pages import browser, open_page\n")
    (folder / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", f"--rootdir={folder}", str(folder)]
    variables = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])} | environment
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no browser")
def test_a_page_with_a_fault_fails_its_test(tmp_path):
    assert f"{len(FAULTS)} passed, {len(FAULTS)} errors" in outcome(tmp_path)


def test_without_a_browser_tests_are_skipped_and_the_reason_is_printed(tmp_path):
    printed = outcome(tmp_path, PATH="", CHROME="")
    assert f"{len(FAULTS)} skipped" in printed and "no chromium or google-chrome found; install one" in printed
