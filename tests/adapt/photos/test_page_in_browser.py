"""The page about classified images in a real browser: pictures, links, filters, phones, and hostile names."""

import re
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image

from adapt.photos.page import write_page
from tests.adapt.photos.results import make_result
from tests.browser.pages import WIDTHS, contrast, find_overlaps, hidden_width

HOSTILE = """"><script>alert(1)</script>'&<b>%23#?.png"""
NAMES = ("red_fish", "<b onclick='alert(1)'>" + "birds_of_a_long_name" * 4, "nothing_here")
PATHS = [HOSTILE, "deep/holiday at the sea.png", "IMG_1.png", "IMG_2.png", "IMG_3.png", "gone.png"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A page about six images, one far and one whose file has vanished, of three classes, one empty."""
    root = tmp_path_factory.mktemp("photos")
    result = make_result(root, PATHS, [0, 1, 1, 0, 1, 0], class_names=NAMES, far=[4], accuracy=0.5, support=2)
    for folder, paths in (("query", PATHS[:-1]), ("support", result.support.paths)):
        for number, path in enumerate(paths):
            file = root / folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), np.uint8)
            Image.fromarray(noise).save(file)
    (root / "out").mkdir()
    return write_page(result, root / "out" / "predictions.html")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_the_window_and_is_readable(page_file, open_page, width, dark):
    page = open_page(page_file, width=width, dark=dark)
    assert hidden_width(page) == 0
    assert not find_overlaps(page, "h1, h2, h3, p, .facts > div, .overview li, .images li, .card, td, .filters > *")
    assert contrast(page, "h1, h2, h3, p, span, a, td, th, option, output") >= 4.5


def test_all_images_of_every_class_are_listed_and_loaded_when_scrolled_to(page_file, open_page):
    page = open_page(page_file, height=300)
    assert page.locator(".images li").count() == len(PATHS)
    assert [group.count() for group in (page.locator(f"#class-{n} .images li") for n in (1, 2, 3))] == [3, 3, 0]
    pictures = page.locator(".images img")
    assert all(pictures.nth(number).get_attribute("loading") == "lazy" for number in range(len(PATHS)))
    for number in range(len(PATHS)):
        pictures.nth(number).scroll_into_view_if_needed()
        page.wait_for_function(
            "(image) => image.complete && image.naturalWidth > 0", arg=pictures.nth(number).element_handle()
        )
    widths = pictures.evaluate_all("all => all.map((image) => image.naturalWidth)")
    assert sorted(widths) == [1, *[60] * (len(PATHS) - 1)]  # a transparent one for the file that has vanished
    shown = page.locator("#class-2 .images li").all_inner_texts()
    assert [re.sub(r"\s+", " ", text).strip() for text in shown] == ["90%", "89%", "88% far"]


def test_pictures_are_links_to_their_files(page_file, open_page):
    page = open_page(page_file)
    for link in page.locator(".images a").all():
        file = unquote(urlsplit(link.evaluate("link => link.href")).path)
        assert file == str(page_file.parents[1] / "query" / link.get_attribute("title"))


def test_filters_show_what_they_name(page_file, open_page):
    page = open_page(page_file)
    shown = page.locator(".images li:visible a")

    def titles():
        return sorted(link.get_attribute("title") for link in shown.all())

    form = page.locator(".filters")
    assert len(titles()) == 6 and form.locator("output").inner_text() == "6 of 6 images"
    form.locator("[name=class]").select_option("1")
    assert titles() == sorted([PATHS[0], PATHS[3], PATHS[5]]) and page.locator(".group:visible").count() == 1
    form.locator("[name=class]").select_option("3")
    assert titles() == [] and page.locator("#class-3").is_visible()
    form.locator("[name=class]").select_option("")
    form.locator("[name=show]").select_option("far")
    assert titles() == ["IMG_3.png"] and form.locator("output").inner_text() == "1 of 6 images"
    form.locator("[name=show]").select_option("80")
    assert titles() == []
    form.locator("[name=show]").select_option("95")
    form.locator("[name=path]").fill("img_")
    assert titles() == ["IMG_1.png", "IMG_2.png", "IMG_3.png"]
    form.locator("[name=path]").fill("#?")
    form.locator("[name=path]").press("Enter")  # does not leave the page
    assert titles() == [HOSTILE]


def test_the_page_warns_and_names_the_interval(page_file, open_page):
    page = open_page(page_file)
    problems = page.locator(".problem").all_inner_texts()
    assert len(problems) == 2 and "3 of 6 held-out" in problems[0] and "nothing_here" in problems[1]
    assert "19–81%" in page.locator(".facts").inner_text()
    assert "Wilson's score interval at 95% for 3 of 6 correct" in page.locator("body").inner_text()


def test_without_scripts_all_images_are_shown(page_file, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator(".images li:visible").count() == len(PATHS) and not page.locator(".filters").is_visible()
    context.close()


def test_thumbnails_are_written_once_and_removed_with_their_images(page_file, tmp_path):
    root = tmp_path
    (root / "query").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (300, 200), "red").save(root / "query" / name)
    (root / "out" / ".thumbnails").mkdir(parents=True)
    (root / "out" / ".thumbnails" / "mine.webp").write_bytes(b"mine")
    write_page(make_result(root, ["a.png", "b.png"], [0, 1]), root / "out" / "page.html")
    first = {path.name: path.stat().st_mtime_ns for path in (root / "out" / ".thumbnails").iterdir()}
    assert len(first) == 3
    (root / "query" / "b.png").unlink()
    write_page(make_result(root, ["a.png"], [0]), root / "out" / "page.html")
    second = {path.name: path.stat().st_mtime_ns for path in (root / "out" / ".thumbnails").iterdir()}
    assert len(second) == 2 and second.items() < first.items() and "mine.webp" in second
