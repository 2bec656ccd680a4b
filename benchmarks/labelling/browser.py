"""Time from a key to the refreshed page of `launch.py label`, in Chromium, and the memory of the server.

    python -m benchmarks.labelling.browser

The server is a process of its own, with random features of 10 clusters, and some pictures are labelled before. In the
last row, a fifth of the pictures arrive meanwhile: they are embedded with `checkpoints/photos` as the job does, and
random features are noted for them. The browser is another process, and both share the machine. A click labels the
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

from benchmarks.machine import describe_machine

TOKEN = "benchmark"
WARMUP = 12  # clicks, until every class is known
CHECKPOINT = pathlib.Path(__file__).parents[2] / "checkpoints" / "photos"
_LABELLED = "count => document.getElementById('progress').textContent.startsWith(`${count} labelled`)"
_PRESS = """
async (key) => {
  const progress = { get textContent() { return document.getElementById("progress").textContent.split(" ")[0]; } };
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
    """Print a row per number of pictures, per number of labels, and one while pictures are embedded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling.browser", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", default="10000,100000", help="comma-separated numbers of pictures")
    parser.add_argument("--labels", default="30,1000,5000", help="comma-separated numbers of labels before the clicks")
    parser.add_argument("--clicks", type=int, default=100, help="clicks that are timed (default: 100)")
    args = parser.parse_args(arguments)
    print(describe_machine())
    titles = (
        "pictures",
        "labels",
        "key to page, least ms",
        "median ms",
        "95 % of clicks, ms",
        "server, median ms",
        "server, MB",
    )
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    counts = [int(count) for count in args.pictures.split(",")]
    first, *more = [int(labels) for labels in args.labels.split(",")]
    rows = [(counts[0], labels, False) for labels in (first, *more)]
    rows += [(count, first, False) for count in counts[1:]] + [(counts[0], first, True)]
    for count, labels, embedding in rows:
        times, server_times, memory = measure(count, labels=labels, clicks=args.clicks, embedding=embedding)
        print(
            f"| {count:,}{', while embedding' if embedding else ''} | {labels:,} | "
            f"{min(times):.0f} | {statistics.median(times):.0f} | {np.percentile(times, 95):.0f} | "
            f"{statistics.median(server_times):.0f} | {memory:.0f} |",
            flush=True,
        )


def measure(count: int, *, labels: int, clicks: int, embedding: bool = False) -> tuple[list[float], list[float], float]:
    """Return the milliseconds of each click, those spent in the server, and the server's peak memory in MB."""
    from playwright.sync_api import sync_playwright

    from tests.browser.pages import CHROMIUM

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(count, labels, folder, theirs, embedding))
        process.start()
        theirs.close()  # so that `recv` fails if the server does
        try:
            port, names = ours.recv()
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = chromium.new_page(viewport={"width": 1400, "height": 900})
            page.goto(f"http://127.0.0.1:{port}/{TOKEN}/")
            page.wait_for_selector("#suggestions .picture.current")
            times, server_times = [], []
            page.on("requestfinished", lambda request: server_times.append(_waited(request)))
            for click in range(WARMUP + clicks):
                number = int(page.evaluate("document.querySelector('.picture.current').dataset.number"))
                name = names[number]
                known = page.locator("#classes .name").all_inner_texts()
                if name in known and known.index(name) < 9:
                    milliseconds = page.evaluate(_PRESS, str(known.index(name) + 1))
                    if click >= WARMUP:
                        times.append(milliseconds)
                else:
                    page.evaluate("name => { document.getElementById('class-name').value = name; }", name)
                    page.locator("#new-class button").click()
                    page.wait_for_function(_LABELLED, arg=f"{labels + click + 1:,}")
                page.wait_for_timeout(50)
            ours.send("memory")
            memory = ours.recv()
            chromium.close()
            return times, [each for each in server_times if each is not None][-len(times) :], memory
        finally:
            process.kill()
            process.join()


def _waited(request) -> float | None:
    """Return the milliseconds until a label was answered, or None for other requests."""
    return request.timing["responseEnd"] if request.url.endswith("/api/label") else None


def serve(count: int, labels: int, folder: str, pipe, embedding: bool) -> None:
    """Serve a session over random features; send the port and the classes, and later the peak memory in MB."""
    import threading

    from adapt.embedding.encoder import Encoder
    from adapt.labelling.embedding_process import embed_in_process
    from adapt.labelling.server import LabellingServer
    from benchmarks.labelling.random_session import open_random_session

    present = count - count // 5 if embedding else count
    session, names, features = open_random_session(pathlib.Path(folder), count, labels=labels, embedded=present)
    pictures = session.pictures
    listener = socket.create_server(("127.0.0.1", 0))
    server = LabellingServer(session, export=None, on_class=lambda name: None, token=TOKEN, host_names=frozenset())
    threading.Thread(target=server.run, args=(listener,), daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    if embedding:
        missing = {number: pictures.state(number) for number in range(present, count)}

        def add(numbers: Sequence[int], found: np.ndarray) -> None:
            session.add_features(numbers, features[list(numbers)])

        options = {"on_features": add, "on_bad": session.add_bad, "stop": threading.Event()}
        encoder, store = Encoder(CHECKPOINT), pathlib.Path(folder, "embeddings")
        threading.Thread(
            target=embed_in_process, args=(pictures, encoder, store, missing), kwargs=options, daemon=True
        ).start()
    pipe.send((listener.getsockname()[1], names))
    pipe.recv()
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    threading.Event().wait()  # until the process is terminated


if __name__ == "__main__":
    main()
