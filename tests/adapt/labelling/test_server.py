"""The server of a labelling session, over loopback: what it answers, and what it refuses."""

import contextlib
import errno
import http.client
import io
import json
import pathlib
import time

import pytest
from PIL import Image

from adapt.labelling.access import TOKEN_FILE, read_token
from adapt.labelling.history import HISTORY_FILE
from tests.adapt.labelling.sessions import COLOURS, TOKEN, Client, make_pictures, open_session, serving

SECRET = "a file outside of the folder"


@pytest.fixture
def served(tmp_path):
    """A session over thirty pictures, its client, and the class of each picture by name."""
    truth = make_pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "notes.txt").write_text(SECRET)
    (tmp_path / "secret.png").write_text(SECRET)
    session = open_session(tmp_path / "pictures", tmp_path / "out")
    with serving(session) as client:
        yield session, client, truth


def test_a_label_is_answered_with_the_new_state_and_is_on_disk(served):
    session, client, _ = served
    before = client.state()
    status, state = client.request("api/label", {"pictures": [3, 5], "class": "red", "keep": [7, 3, 999]})
    assert status == 200
    assert state["version"] > before["version"]
    assert state["classes"] == [{"name": "red", "labelled": 2}]
    assert [each["number"] for each in state["kept"]] == [7, 3]
    assert state["kept"][1]["label"] == "red"
    assert state["undo"] == "2 pictures → red"
    row = json.loads((session.out / HISTORY_FILE).read_text())
    assert (row["class"], row["pictures"]) == ("red", ["IMG_003.png", "IMG_005.png"])
    status, state = client.request("api/undo", {})
    assert (status, state["classes"], state["labelled"]) == (200, [], 0)


def test_two_clients_see_the_same(served):
    _, first, _ = served
    second = Client(first.port, session=first.session)
    first.request("api/label", {"pictures": [1], "class": "red"})
    second.request("api/label", {"pictures": [2], "class": "blue"})
    states = first.state(), second.state()
    assert states[0] == states[1]
    assert states[0]["classes"] == [{"name": "red", "labelled": 1}, {"name": "blue", "labelled": 1}]


def test_events_tell_of_changes(served):
    session, client, _ = served
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    connection.request("GET", f"/{TOKEN}/api/events")
    answer = connection.getresponse()
    assert answer.getheader("content-type").startswith("text/event-stream")
    first = json.loads(answer.readline().decode().removeprefix("data: "))
    answer.readline()
    client.request("api/label", {"pictures": [1], "class": "red"})
    second = json.loads(answer.readline().decode().removeprefix("data: "))
    assert second[0] == first[0] == session.identity
    assert second[1] > first[1]
    connection.close()


def test_pictures_are_webp_of_bounded_size(served):
    _, client, _ = served
    for size in ("small", "large"):
        status, content = client.request(f"{size}/0")
        assert status == 200
        assert client.headers["content-type"] == "image/webp"
        assert Image.open(io.BytesIO(content)).size == (40, 32)
    assert client.request("small/30")[0] == client.request("small/-1")[0] == 404


def test_a_picture_that_vanished_is_shown_as_such(served):
    session, client, _ = served
    pathlib.Path(session.pictures.file(2)).unlink()
    status, content = client.request("small/2")
    assert (status, content[:3]) == (200, b"GIF")
    assert client.state()["unreadable"] == 1
    found = client.request("api/pictures?show=unreadable")[1]["pictures"]
    assert [each["number"] for each in found] == [2]
    assert "No such file" in found[0]["problem"]


@pytest.mark.parametrize(
    "path",
    [
        "small/../../secret.png",
        "small/%2e%2e/%2e%2e/secret.png",
        "small/notes.txt",
        "static/../session.py",
        "static/%2e%2e%2fsession.py",
        "static/..%5csession.py",
        "static/label.html",
        "static//etc/passwd",
        "static/labels.jsonl",
        "labels.jsonl",
        TOKEN_FILE,
        "large/0/../../../secret.png",
    ],
)
def test_no_other_file_is_served(served, path):
    _, client, _ = served
    client.request("api/label", {"pictures": [0], "class": "red"})
    status, content = client.request(path)
    assert status in (403, 404)
    assert SECRET not in str(content)
    assert "IMG_000" not in str(content)


@pytest.mark.parametrize(
    ("headers", "method"),
    [
        ({"Host": "evil.example"}, "POST"),
        ({"Host": "evil.example:80"}, "GET"),
        ({"Host": "localhost.evil.example"}, "POST"),
        ({"Host": ""}, "POST"),
        ({"Host": "[::1"}, "POST"),
        ({"Origin": "http://evil.example"}, "POST"),
        ({"Origin": "null"}, "POST"),
        ({"Origin": "http://127.0.0.1:1"}, "POST"),
        ({"Sec-Fetch-Site": "cross-site"}, "POST"),
    ],
)
def test_other_sites_and_hosts_are_refused_even_with_the_token(served, headers, method):
    session, client, _ = served
    body = {"pictures": [0], "class": "red"} if method == "POST" else None
    status, text = client.request("api/label" if body else "", body, method=method, headers=headers)
    assert (status, b"refused" in text) == (403, True)
    assert not session.labels


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper()])
def test_without_the_token_nothing_is_answered(served, token):
    session, client, _ = served
    stranger = Client(client.port, token=token)
    for path, body in (
        ("", None),
        ("api/state", {}),
        ("api/label", {"pictures": [0], "class": "red"}),
        ("small/0", None),
    ):
        status, text = stranger.request(path, body)
        assert (status, b"secret of this session" in text) == (403, True)
    assert not session.labels


def test_own_names_and_numeric_addresses_are_accepted(served):
    _, client, _ = served
    for host in (f"127.0.0.1:{client.port}", f"localhost:{client.port}", f"[::1]:{client.port}", "192.168.1.7"):
        assert client.request("api/state", {}, headers={"Host": host, "Origin": f"http://{host}"})[0] == 200


def test_answers_forbid_scripts_and_frames_of_others(served):
    _, client, _ = served
    client.request("")
    policy = client.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert client.headers["referrer-policy"] == "no-referrer"
    assert client.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("api/label", {"pictures": [0], "class": "../x"}),
        ("api/label", {"pictures": [0], "class": ""}),
        ("api/label", {"pictures": [0], "class": 3}),
        ("api/label", {"pictures": [], "class": "red"}),
        ("api/label", {"pictures": "all", "class": "red"}),
        ("api/label", {"pictures": [99], "class": "red"}),
        ("api/label", {"pictures": [0, -1], "class": "red"}),
        ("api/label", {"pictures": [{"a": 1}], "class": "red"}),
        ("api/label", []),
        ("api/label", {"pictures": [0]}),
        ("api/label", b"{"),
        ("api/label", b"[" * 100_000),
        ("api/state", {"keep": ["x"]}),
        ("api/state", {"keep": list(range(10_000))}),
        ("api/undo", {}),
        ("api/export", {"placement": "move"}),
        ("api/pictures?start=x", None),
        ("api/pictures?start=-1", None),
        ("api/pictures?show=class:nobody", None),
        ("api/pictures?text=red", None),
    ],
)
def test_wrong_requests_get_a_sentence_and_change_nothing(served, path, body):
    session, client, _ = served
    status, answer = client.request(path, body)
    assert status == 400
    assert answer["problem"].endswith(".")
    assert not session.labels


def test_requests_of_an_earlier_start_are_refused(served):
    session, client, _ = served
    for path, body in (
        ("api/label", {"pictures": [0], "class": "red"}),
        ("api/undo", {}),
        ("api/remove_class", {"class": "red"}),
        ("api/rename_class", {"class": "red", "to": "x"}),
        ("api/export", {"placement": "copy"}),
    ):
        for identity in ("an earlier one", None):
            status, answer = client.request(path, body | {"session": identity})
            assert (status, "started again" in answer["problem"]) == (409, True)
    assert not session.labels


def test_a_class_without_pictures_can_be_removed(served):
    _, client, _ = served
    client.request("api/label", {"pictures": [0], "class": "rde"})
    status, answer = client.request("api/remove_class", {"class": "rde"})
    assert (status, "has labelled pictures" in answer["problem"]) == (400, True)
    client.request("api/label", {"pictures": [0], "class": "red"})
    status, state = client.request("api/remove_class", {"class": "rde"})
    assert (status, [each["name"] for each in state["classes"]]) == (200, ["red"])
    _, state = client.request("api/undo", {})
    assert [each["name"] for each in state["classes"]] == ["rde", "red"]


def test_a_class_is_renamed_for_all_clients_and_undone(served):
    session, client, _ = served
    client.request("api/label", {"pictures": [0, 4], "class": "rde"})
    client.request("api/label", {"pictures": [1], "class": "blue"})
    status, state = client.request("api/rename_class", {"class": "rde", "to": "red"})
    assert (status, [each["name"] for each in state["classes"]]) == (200, ["red", "blue"])
    assert state["undo"] == "class rde renamed to red"
    assert {column["name"] for column in state["columns"]} == {"red", "blue", None}
    for body, sentence in (
        ({"class": "red", "to": "Blue"}, "class 'blue' exists already. To merge the two"),
        ({"class": "rde", "to": "x"}, "class 'rde' does not exist"),
        ({"class": "red", "to": "a/b"}, "cannot be the name of a folder"),
        ({"class": "red"}, "class None is not a text"),
    ):
        status, answer = client.request("api/rename_class", body)
        assert (status, sentence in answer["problem"]) == (400, True)
    status, answer = client.request("api/label", {"pictures": [2], "class": "rde", "existing": True})
    assert (status, "was renamed or removed" in answer["problem"]) == (400, True)
    assert session.labels == {0: "red", 4: "red", 1: "blue"}
    _, state = client.request("api/undo", {})
    assert [each["name"] for each in state["classes"]] == ["rde", "blue"]


def test_more_connections_than_allowed_are_answered_503(tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.labelling.server._MOST_CONNECTIONS", 5)
    make_pictures(tmp_path / "pictures", per_class=1)
    with serving(open_session(tmp_path / "pictures", tmp_path / "out")) as client, contextlib.ExitStack() as stack:
        assert client.request("api/state", {})[0] == 200
        streams = []
        for _ in range(4):
            streams.append(
                stack.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", client.port)))
            )
            streams[-1].request("GET", f"/{TOKEN}/api/events")
            assert streams[-1].getresponse().status == 200
        assert client.request("api/state", {}) == (503, b"Service Unavailable")
        streams.pop().close()
        deadline = time.monotonic() + 20
        while client.request("api/state", {})[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_full_disk_is_a_sentence_and_loses_nothing(served, monkeypatch):
    session, client, _ = served
    client.request("api/label", {"pictures": [0], "class": "red"})

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("adapt.labelling.history.append_json_line", full)
    status, answer = client.request("api/label", {"pictures": [1], "class": "red"})
    assert (status, answer["problem"]) == (500, "nothing was saved: No space left on device. Free space and try again.")
    assert session.labels == {0: "red"}


def test_pictures_are_served_although_thumbnails_cannot_be_kept(served, monkeypatch):
    session, client, _ = served

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("adapt.labelling.thumbnails.atomic_file", full)
    status, content = client.request("small/0")
    assert (status, content[:4]) == (200, b"RIFF")
    assert not session.bad


def test_other_content_types_and_huge_requests_are_refused(served):
    session, client, _ = served
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert client.request("api/label", b'{"pictures": [0], "class": "x"}', headers={"Content-Type": kind})[0] == 400
    assert client.request("api/label", b" " * 5_000_000)[0] == 413
    assert not session.labels


def test_export_runs_once_and_reports_its_result(served):
    session, client, truth = served
    status, state = client.request("api/export", {"placement": "copy"})
    assert status == 200
    state = wait_for_export(client)
    assert state["state"] == "failed"
    assert "fewer than two classes" in state["problem"]
    for number in range(12):
        client.request("api/label", {"pictures": [number], "class": truth[session.pictures.names[number]]})
    client.request("api/export", {"placement": "copy"})
    state = wait_for_export(client)
    assert (state["state"], state["pictures"], state["labelled"], state["alone"]) == ("done", 30, 12, 0)
    assert {path.name for path in (session.out / "classes").iterdir()} == set(COLOURS)


def wait_for_export(client):
    deadline = time.monotonic() + 60
    while (state := client.state()["export"])["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    return state


def test_the_token_survives_a_restart_and_is_private(tmp_path):
    token = read_token(tmp_path)
    assert len(token) >= 32
    assert read_token(tmp_path) == token
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o077 == 0
    (tmp_path / TOKEN_FILE).write_text("../x\n")
    assert read_token(tmp_path).isalnum()
