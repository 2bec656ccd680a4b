"""The page of a labelling session in a real browser, served over loopback."""

import pytest

from tests.adapt.labelling.sessions import COLOURS, label_by_keyboard, make_pictures, open_session, serving
from tests.browser.pages import WIDTHS, contrast, find_overlaps, hidden_width

HOSTILE = """"><script>alert(1)</script>'&<b>%23.png"""


@pytest.fixture
def served(tmp_path):
    """A session over 60 pictures, one with a hostile name and one that cannot be read; its client; the classes."""
    folder = tmp_path / "pictures"
    truth = make_pictures(folder, per_class=20)
    (folder / HOSTILE).parent.mkdir(parents=True)
    (folder / "IMG_000.png").rename(folder / HOSTILE)
    truth[HOSTILE] = truth.pop("IMG_000.png")
    session = open_session(folder, tmp_path / "out")
    session.add_bad(session.pictures.number("IMG_059.png"), "IMG_059.png: cut off")
    with serving(session) as client:
        yield session, client, truth


def open_session_page(open_page, client, **options):
    page = open_page(client.address, **options)
    page.wait_for_selector("#suggestions .picture.current")
    return page


def test_thirty_pictures_by_keyboard_then_undo_and_export(served, open_page):
    session, client, truth = served
    page = open_session_page(open_page, client)
    labelled = [label_by_keyboard(page, truth) for _ in range(30)]
    assert len(set(labelled)) == 30
    assert {session.pictures.names[number]: label for number, label in session.labels.items()} == {
        name: truth[name] for name in labelled
    }
    columns = page.locator(".column")
    counts = {columns.nth(n).locator("h3").inner_text(): columns.nth(n).locator("p").inner_text() for n in range(4)}
    left = {name: sum(truth[each] == name for each in set(truth) - set(labelled) - {"IMG_059.png"}) for name in COLOURS}
    far = int(counts.pop("Far from everything").split()[0])
    assert sum(int(text.split()[0]) for text in counts.values()) + far == sum(left.values())
    assert "random pictures were guessed right" in page.inner_text("#estimate")
    assert page.locator("#curve svg polyline").count() == 1
    page.keyboard.press("u")
    page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('29 labelled')")
    assert len(session.labels) == 29
    page.click("#open-export")
    page.click("#export-copy")
    page.wait_for_selector("#export-state ul")
    assert "59 pictures, 29 of them labelled" in page.inner_text("#export-state")
    assert len(list((session.out / "support").glob("*/*"))) == 29


def test_two_pages_stay_the_same(served, open_page):
    _, client, truth = served
    first, second = (open_session_page(open_page, client) for _ in range(2))
    name = label_by_keyboard(first, truth)
    second.wait_for_function("() => document.getElementById('progress').textContent.startsWith('1 labelled')")
    framed = second.locator("#suggestions .picture.current")  # a key under way must not hit another picture
    assert framed.locator("img").get_attribute("alt") == name
    assert framed.locator(".caption").inner_text() == truth[name]
    second.keyboard.press("Enter")  # accepts no guess for a labelled picture
    second.wait_for_selector("#problem:not([hidden])")
    second.keyboard.press("ArrowRight")
    label_by_keyboard(second, truth)
    for page in (first, second):
        page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('2 labelled')")
    assert first.locator("#classes").inner_text() == second.locator("#classes").inner_text()


def test_clicks_select_and_the_buttons_label_what_is_selected(served, open_page):
    session, client, _ = served
    page = open_session_page(open_page, client)
    pictures = page.locator("#suggestions .picture")
    pictures.nth(2).click()
    pictures.nth(1).click()
    assert page.inner_text("#selected") == ""  # a click frames a picture and selects none
    pictures.nth(4).click(modifiers=["Shift"])
    assert page.inner_text("#selected").startswith("4 selected")
    page.fill("#class-name", "several")
    page.click("#new-class button")
    page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('4 labelled')")
    assert list(session.labels.values()) == ["several"] * 4
    assert page.inner_text("#selected") == ""
    pictures.nth(0).click()
    page.click("#classes button")
    page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('5 labelled')")
    page.select_option("#show", "labelled")
    page.wait_for_function("() => document.querySelectorAll('#all-pictures .picture').length === 5")
    page.locator("#all-pictures .picture").nth(2).click()
    page.keyboard.press("0")
    page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('4 labelled')")


def test_a_framed_picture_of_a_column_is_never_exchanged_by_others(served, open_page):
    session, client, truth = served
    page = open_session_page(open_page, client)
    for _ in range(9):
        label_by_keyboard(page, truth)
    column = page.locator(".column").first.locator(".pictures").first
    column.locator(".picture").first.click()
    number = int(page.evaluate("document.querySelector('.picture.current').dataset.number"))
    for other in range(2):  # labels by somebody else, the second one of the framed picture
        open_number = next(each for each in range(60) if each not in session.labels and each != number)
        labelled = number if other else open_number
        client.request("api/label", {"pictures": [labelled], "class": truth[session.pictures.names[labelled]]})
        labels = len(session.labels)
        page.wait_for_function(
            "count => document.getElementById('progress').textContent.startsWith(`${count} labelled`)", arg=labels
        )
        framed = page.locator(".picture.current")
        numbers = [int(each.get_attribute("data-number")) for each in framed.all()]
        assert numbers in ([[]] if other else [[number], []])  # it may have left the column
    page.keyboard.press("1")
    page.wait_for_selector("#problem:not([hidden])")
    assert len(session.labels) == labels


def test_a_class_is_renamed_on_one_page_and_another_page_follows(served, open_page):
    session, client, truth = served
    first, second = (open_session_page(open_page, client) for _ in range(2))
    for _ in range(9):
        label_by_keyboard(first, truth)
    names = session.class_names
    first.select_option("#show", f"class:{names[1]}")
    row = first.locator("#classes li").nth(1)
    row.locator(".small-button").first.click()
    assert first.inner_text("#rename-title") == f"Rename class {names[1]}"
    first.fill("#new-name", "umber")
    first.keyboard.press("1")  # goes into the name, and labels nothing
    first.keyboard.press("Enter")
    expected = [names[0], "umber1", names[2]]
    for page in (first, second):
        page.wait_for_function("() => document.getElementById('classes').textContent.includes('umber1')")
        assert page.locator("#classes .name").all_inner_texts() == expected
        assert page.locator(".column h3").all_inner_texts() == [*expected, "Far from everything"]
    assert first.input_value("#show") == "all"
    assert len(session.labels) == 9
    second.locator("#classes li button").nth(0).focus()
    second.keyboard.press("F2")
    second.fill("#new-name", "umber1")
    second.locator("#cancel-rename").click()
    second.keyboard.press("u")
    first.wait_for_function("name => document.getElementById('classes').textContent.includes(name)", arg=names[1])
    assert session.class_names == names


def test_a_key_for_a_class_that_was_renamed_elsewhere_labels_nothing(served, browser):
    session, client, truth = served
    page = browser.new_page()  # Chromium reports the refused request as an error, which `open_page` does not allow
    page.goto(client.address)
    page.wait_for_selector("#suggestions .picture.current")
    label_by_keyboard(page, truth)
    old = session.class_names[0]
    page.route("**/api/events", lambda route: route.abort())
    page.route("**/api/state", lambda route: route.abort())  # the page does not notice
    client.request("api/rename_class", {"class": old, "to": "umber"})
    page.evaluate("""() => document.querySelector(".picture.current")
        .dispatchEvent(new KeyboardEvent("keydown", { key: "1", bubbles: true }))""")
    page.wait_for_function("() => document.getElementById('problem').textContent.includes('renamed')")
    assert list(session.labels.values()) == ["umber"]
    page.close()


def test_a_held_key_labels_one_picture(served, open_page):
    session, client, truth = served
    page = open_session_page(open_page, client)
    label_by_keyboard(page, truth)
    page.evaluate(
        """() => [false, true, true, true].forEach((repeat) => document.querySelector(".picture.current")
          .dispatchEvent(new KeyboardEvent("keydown", { key: "1", repeat, bubbles: true })))"""
    )
    page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('2 labelled')")
    page.wait_for_timeout(300)
    assert len(session.labels) == 2


def test_a_page_of_an_earlier_start_labels_nothing(served, browser):
    session, client, _ = served
    page = browser.new_page()  # Chromium reports the refused request as an error, which `open_page` does not allow
    page.goto(client.address)
    page.wait_for_selector("#suggestions .picture.current")
    session.identity = "another start"  # as if the job were started again; the page has not noticed yet
    page.evaluate("() => { window.old = true; }")
    page.keyboard.press("n")
    page.keyboard.type("red")
    page.keyboard.press("Enter")
    page.wait_for_function("() => !window.old")  # it was loaded again
    assert not session.labels
    page.close()


def test_keys_move_accept_guesses_and_find_similar_pictures(served, open_page):
    session, client, truth = served
    page = open_session_page(open_page, client)
    for _ in range(9):
        label_by_keyboard(page, truth)
    current = "document.querySelector('.picture.current').dataset.number"
    page.locator("#suggestions .picture").first.focus()
    before = page.evaluate(current)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(current) != before
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(current) == before
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('progress').textContent.startsWith('10 labelled')")
    name = session.pictures.names[int(before)]
    assert session.labels[int(before)] == truth[name]
    page.keyboard.press("s")
    page.wait_for_selector("#likeness:not([hidden])")
    similar = page.evaluate(current)
    page.wait_for_function(
        "number => document.querySelector('#all-pictures .picture')?.dataset.number === number", arg=similar
    )
    alike = page.locator("#all-pictures .picture img").evaluate_all("all => all.slice(0, 8).map((one) => one.alt)")
    assert len({truth[name] for name in alike}) == 1
    page.click("#end-likeness")
    page.locator("#suggestions .picture").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("v")
    page.wait_for_selector("#view[open]")
    page.wait_for_function("() => document.getElementById('view-picture').naturalWidth > 0")


def test_unreadable_pictures_and_hostile_names_are_shown_as_they_are(served, open_page):
    _, client, _ = served
    page = open_session_page(open_page, client)
    assert "1 cannot be read" in page.inner_text("#progress")
    page.select_option("#show", "unreadable")
    page.wait_for_selector("#all-pictures .picture.broken")
    assert page.locator("#all-pictures .caption").all_inner_texts() == ["cannot be read"]
    page.select_option("#show", "all")
    page.select_option("#order", "name")
    page.wait_for_function("name => document.querySelector('#all-pictures img')?.alt === name", arg=HOSTILE)
    page.fill("#class-name", "&lt;b&gt; '${alert(1)}'")
    page.keyboard.press("Enter")
    page.wait_for_selector("#classes button")
    assert page.locator("#classes .name").all_inner_texts() == ["&lt;b&gt; '${alert(1)}'"]


def test_a_name_that_cannot_be_a_folder_is_answered_with_a_sentence(served, browser):
    session, client, _ = served
    page = browser.new_page()
    page.goto(client.address)
    page.wait_for_selector("#suggestions .picture.current")
    page.fill("#class-name", "../x")
    page.keyboard.press("Enter")
    page.wait_for_selector("#problem:not([hidden])")
    assert "cannot be the name of a folder" in page.inner_text("#problem")
    assert not session.labels
    page.close()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_the_window_and_is_readable(served, open_page, width, dark):
    session, client, truth = served
    for number in range(9):
        session.label([number], truth[session.pictures.names[number]])
    page = open_session_page(open_page, client, width=width, dark=dark)
    page.wait_for_selector("#all-pictures .picture")
    assert hidden_width(page) == 0
    scrolled = "" if width == 400 else ", #suggestions .picture"  # on a phone they scroll in a box of their own
    assert not find_overlaps(page, "h1, h2, h3, h4, p, button, label, #columns .picture, dt, dd" + scrolled)
    assert contrast(page, "h1, h2, h3, h4, p, button, label, .caption, .reason, kbd, option") >= 4.5


@pytest.fixture
def long_list(tmp_path):
    """The client of a session over 3,003 pictures."""
    folder = tmp_path / "pictures"
    make_pictures(folder, per_class=1)
    for number in range(3000):
        (folder / f"copy_{number:04d}.png").hardlink_to(folder / "IMG_000.png")
    with serving(open_session(folder, tmp_path / "out", embedded=False)) as client:
        yield client


def test_a_long_list_shows_only_what_is_in_sight(long_list, open_page):
    page = open_page(long_list.address)
    page.wait_for_selector("#all-pictures .picture")
    page.select_option("#order", "name")
    assert page.inner_text("#total") == "3,003 pictures"
    assert page.locator("#all-pictures .picture").count() < 200
    page.evaluate("document.getElementById('all').scrollTop = 1e9")
    page.wait_for_function("() => [...document.querySelectorAll('#all-pictures img')].at(-1)?.alt === 'copy_2999.png'")
    assert page.locator("#all-pictures .picture").count() < 200
