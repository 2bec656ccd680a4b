"""Labelling sessions over small pictures of a few colours, and their server in a thread, without a checkpoint."""

import contextlib
import http.client
import json
import socket
import threading
import time

import numpy as np
from PIL import Image

from adapt.labelling.export import export_session
from adapt.labelling.pictures import PictureFolder
from adapt.labelling.server import LabellingServer
from adapt.labelling.session import LabellingSession

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
DIM = 8
TOKEN = "secret0token"


def make_pictures(folder, *, per_class=10, noise=20, seed=0):
    """Write pictures of each colour to a folder, in an order that tells nothing; return the class by name."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    classes = rng.permutation([name for name in COLOURS for _ in range(per_class)])
    truth = {}
    for number, name in enumerate(classes):
        pixels = np.clip(rng.normal(COLOURS[name], noise, (32, 40, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"IMG_{number:03d}.png")
        truth[f"IMG_{number:03d}.png"] = str(name)
    return truth


def colour_features(pictures):
    """Return unit features `[pictures, DIM]`: the mean colour, and zeros."""
    rows = [np.asarray(pictures.open(number), np.float64).mean(axis=(0, 1)) for number in range(len(pictures))]
    features = np.pad(np.array(rows, np.float32), [(0, 0), (0, DIM - 3)])
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def open_session(folder, out, *, embedded=True, **options):
    """Return a session whose features are mean colours."""
    pictures = PictureFolder(str(folder))
    out.mkdir(parents=True, exist_ok=True)
    session = LabellingSession(pictures, out, dim=DIM, **options)
    if embedded:
        session.add_features(list(range(len(pictures))), colour_features(pictures))
        session.finish_embedding()
    return session


class Client:
    """Requests to a server, like those of the page."""

    def __init__(self, port, *, token=TOKEN, session=None):
        self.port, self.token, self.session = port, token, session
        self.address = f"http://127.0.0.1:{port}/{token}/"

    def request(self, path, body=None, *, method=None, headers=None, raw=False):
        """Return the status and the body of a request; `raw` leaves the token out of the path."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        given = {"Content-Type": "application/json"} if body is not None else {}
        if isinstance(body, dict) and self.session is not None:
            body = {"session": self.session} | body
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        target = path if raw else f"/{self.token}/{path}"
        connection.putrequest(
            method or ("GET" if body is None else "POST"), target, skip_host="Host" in (headers or {})
        )
        for name, value in (given | (headers or {})).items():
            connection.putheader(name, value)
        if content is not None:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        answer = connection.getresponse()
        found = answer.read()
        self.headers = dict(answer.getheaders())
        connection.close()
        is_json = answer.getheader("content-type", "").startswith("application/json")
        return answer.status, json.loads(found) if is_json else found

    def state(self):
        """Return the state of the session."""
        status, state = self.request("api/state", {})
        assert status == 200, state
        self.session = state["session"]
        return state


@contextlib.contextmanager
def serving(session, *, host_names=frozenset({"localhost"})):
    """Serve a session in a thread, and yield its `Client`."""

    def export(placement, progress):
        return export_session(session, placement=placement, described={"checkpoint": "colours"}, progress=progress)

    server = LabellingServer(session, export=export, on_class=lambda name: None, token=TOKEN, host_names=host_names)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=(listener,), daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield Client(listener.getsockname()[1], session=session.identity)
    finally:
        server.stop()
        thread.join(timeout=20)
        listener.close()


def label_by_keyboard(page, truth):
    """Label the current picture with its class by keys alone, and wait until the page shows it."""
    name = page.evaluate("document.querySelector('.picture.current img').alt")
    classes = page.locator("#classes .name").all_inner_texts()
    before = page.inner_text("#progress")
    if truth[name] in classes:
        page.keyboard.press(str(classes.index(truth[name]) + 1))
    else:
        page.keyboard.press("n")
        page.keyboard.type(truth[name])
        page.keyboard.press("Enter")
    page.wait_for_function("before => document.getElementById('progress').textContent !== before", arg=before)
    return name
