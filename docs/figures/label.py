"""Make the pictures of the page of `launch.py label` from the page itself, in Chromium.

    python docs/figures/label.py

It starts the job on included photos, labels 40 of them by keyboard with their true classes, and writes `label.webp`,
which moves, `label-columns.webp` and `label-phone.webp`. It needs requirements-dev.txt and
Chromium. The included photos are small; see data/photos/ATTRIBUTION.md for their authors.
"""

from __future__ import annotations

import csv
import io
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from PIL import Image

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(ROOT))

from data.photos.write_files import write_files  # noqa: E402
from tests.adapt.labelling.sessions import label_by_keyboard  # noqa: E402
from tests.browser.pages import CHROMIUM  # noqa: E402

CLASSES = ("dress", "hat", "pants", "shoes", "t-shirt")
CLICKS = 40
WINDOW = {"width": 1400, "height": 1120}
SCALED = (1000, 800)  # pixels of the moving picture
SECONDS, LAST_SECONDS = 0.55, 3.0
PATIENCE = 300  # seconds until the photos are embedded
MOST_BYTES = 2_000_000


def main() -> None:
    """Write the pictures."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = pathlib.Path(name)
        write_files("clothing", folder / "photos", classes=CLASSES)
        with open(folder / "truth.csv", newline="", encoding="utf-8") as file:
            truth = {row["path"]: row["class"] for row in csv.DictReader(file)}
        command = [sys.executable, "launch.py", "label", "--checkpoint=checkpoints/photos", "--no_browser", "--port=0"]
        options = [f"--images={folder}/photos", f"--out={folder}/labels"]
        job = subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            found = (re.search(r"http://\S+", line) for line in job.stdout)
            address = next(filter(None, found))[0]
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            _take_pictures(chromium.new_page(viewport=WINDOW), address, truth)
            chromium.close()
        finally:
            job.send_signal(signal.SIGINT)
            job.wait(60)


def _take_pictures(page, address: str, truth: dict[str, str]) -> None:
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    page.wait_for_function("() => /^0 labelled · \\d+ pictures$/.test(document.getElementById('progress').textContent)")
    page.wait_for_function("() => document.querySelectorAll('#suggestions img').length === 12")
    frames = [_picture(page)]
    for _ in range(CLICKS):
        label_by_keyboard(page, truth)
        frames.append(_picture(page))
    _save(_picture(page, full_page=True), "label-columns.webp")
    page.set_viewport_size({"width": 400, "height": 860})
    _save(_picture(page), "label-phone.webp")
    durations = [round(1000 * SECONDS)] * len(frames)
    durations[-1] = round(1000 * LAST_SECONDS)
    path = FOLDER / "label.webp"
    frames = [frame.resize(SCALED, Image.Resampling.LANCZOS) for frame in frames]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=45, method=6)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are wanted. Lower CLICKS.")


def _picture(page, *, full_page: bool = False) -> Image.Image:
    """Return a picture of the page, when its images are there."""
    page.wait_for_timeout(700)
    page.wait_for_function("() => [...document.images].every((image) => image.complete || image.loading === 'lazy')")
    return Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB")


def _save(picture: Image.Image, name: str) -> None:
    picture.save(FOLDER / name, quality=70, method=6)


if __name__ == "__main__":
    main()
