"""Time from a key to the refreshed page of `launch.py label`, in Chromium, and the memory of the server.

    python -m benchmarks.labelling.browser

The server is a process of its own, with random features of 10 clusters; in the last row it embeds pictures with
`checkpoints/photos` at the same time. The browser is another process, and both share the machine. A click labels the
first suggestion: the key is pressed, the label is written to disk and synced, the classifier refits, the next pictures
are chosen, and the browser has drawn the answer. There is no peer to compare with. The physical limit of a click is the
time in which the features are read once, for the cosines to the new label: at 10 GB/s 2 ms for 10,000 pictures of 512
dimensions, and 20 ms for 100,000.
"""

from __future__ import annotations

import argparse
import multiprocessing
import pathlib
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine

DIM, CLUSTERS = 512, 10
TOKEN = "benchmark"
_LINKS = 10_000  # names of one file; file systems allow 65,000
WARMUP = 12  # clicks, until every class is known
_LABELLED = "count => document.getElementById('progress').textContent.startsWith(`${count} labelled`)"
_PRESS = """
async (key) => {
  const progress = document.getElementById("progress");
  const before = progress.textContent;
  const start = performance.now();
  (document.activeElement ?? document.body).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  await new Promise((resolve) => {
    const look = () => {
      if (progress.textContent === before) setTimeout(look, 1);
      else requestAnimationFrame(() => setTimeout(resolve));
    };
    look();
  });
  return performance.now() - start;
}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row per number of pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling.browser", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", default="10000,100000", help="comma-separated numbers of pictures")
    parser.add_argument("--clicks", type=int, default=100, help="clicks that are timed (default: 100)")
    args = parser.parse_args(arguments)
    print(describe_machine())
    titles = ("pictures", "key to page, median ms", "95 % of clicks, ms", "server, median ms", "server, MB")
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    counts = [int(count) for count in args.pictures.split(",")]
    for count, embedding in [*((count, False) for count in counts), (counts[0], True)]:
        times, server_times, memory = measure(count, clicks=args.clicks, embedding=embedding)
        print(
            f"| {count:,}{', while embedding' if embedding else ''} | "
            f"{statistics.median(times):.0f} | {np.percentile(times, 95):.0f} | "
            f"{statistics.median(server_times):.0f} | {memory:.0f} |",
            flush=True,
        )


def measure(count: int, *, clicks: int, embedding: bool = False) -> tuple[list[float], list[float], float]:
    """Return the milliseconds of each click, those spent in the server, and the server's peak memory in MB."""
    from playwright.sync_api import sync_playwright

    from tests.browser.pages import CHROMIUM

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(count, folder, theirs, embedding), daemon=True)
        process.start()
        theirs.close()  # so that `recv` fails if the server does
        port, labels = ours.recv()
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/{TOKEN}/")
        page.wait_for_selector("#suggestions .picture.current")
        times, server_times = [], []
        page.on("requestfinished", lambda request: server_times.append(_waited(request)))
        for click in range(WARMUP + clicks):
            number = int(page.evaluate("document.querySelector('.picture.current').dataset.number"))
            name = f"class {labels[number]}"
            known = page.locator("#classes .name").all_inner_texts()
            if name in known and known.index(name) < 9:
                milliseconds = page.evaluate(_PRESS, str(known.index(name) + 1))
                if click >= WARMUP:
                    times.append(milliseconds)
            else:
                page.evaluate("name => { document.getElementById('class-name').value = name; }", name)
                page.locator("#new-class button").click()
                page.wait_for_function(_LABELLED, arg=click + 1)
            page.wait_for_timeout(50)
        ours.send("memory")
        memory = ours.recv()
        chromium.close()
        process.terminate()
        process.join()
        return times, [each for each in server_times if each is not None][-len(times) :], memory


def _waited(request) -> float | None:
    """Return the milliseconds until a label was answered, or None for other requests."""
    return request.timing["responseEnd"] if request.url.endswith("/api/label") else None


def serve(count: int, folder: str, pipe, embedding: bool) -> None:
    """Serve a session over random features; send the port and the classes, and later the peak memory in MB."""
    import threading

    from adapt.labelling.pictures import PictureFolder
    from adapt.labelling.server import LabellingServer
    from adapt.labelling.session import LabellingSession

    root = pathlib.Path(folder, "pictures")
    root.mkdir()
    for number in range(count):
        path = root / f"picture-{number:06d}.png"
        if number % _LINKS == 0:
            Image.new("RGB", (64, 48), (120, 150, 90)).save(path)
            first = path
        else:
            path.hardlink_to(first)
    rng = np.random.default_rng(0)
    labels = rng.integers(CLUSTERS, size=count)
    centers = rng.normal(size=(CLUSTERS, DIM)).astype(np.float32)
    session = LabellingSession(PictureFolder(str(root)), pathlib.Path(folder), dim=DIM)
    for start in range(0, count, 1024):
        part = np.arange(start, min(start + 1024, count))
        features = centers[labels[part]] + 1.5 * rng.standard_normal((len(part), DIM), np.float32)
        session.add_features(part.tolist(), features / np.linalg.norm(features, axis=1, keepdims=True))
    session.finish_embedding()
    listener = socket.create_server(("127.0.0.1", 0))
    server = LabellingServer(session, export=None, on_class=lambda name: None, token=TOKEN, host_names=frozenset())
    threading.Thread(target=server.run, args=(listener,), daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    if embedding:
        threading.Thread(target=embed_forever, daemon=True).start()
    pipe.send((listener.getsockname()[1], labels))
    pipe.recv()
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    threading.Event().wait()  # until the process is terminated


def embed_forever() -> None:
    """Embed random pictures as the job does."""
    from adapt.embedding.encoder import Encoder

    encoder = Encoder(pathlib.Path(__file__).parents[2] / "checkpoints" / "photos")
    pixels = np.random.default_rng(0).integers(0, 255, (128, 96, 128, 3), np.uint8)
    while True:
        encoder.embed_images(list(pixels))


if __name__ == "__main__":
    main()
