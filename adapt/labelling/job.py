"""Run a labelling session: `launch.py label`."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from adapt.adapters.ops import normalize_numpy
from adapt.embedding.cache import mean_of_prompts, prompts
from adapt.embedding.encoder import Encoder
from adapt.labelling.access import read_token
from adapt.labelling.embedding import FeatureStore, embed_missing, load_stored, store_folder
from adapt.labelling.embedding_process import embed_in_process
from adapt.labelling.export import Exported, export_session
from adapt.labelling.pictures import PictureFolder
from adapt.labelling.server import LabellingServer
from adapt.labelling.session import LabellingSession
from adapt.photos.templates import check_template, choose_templates
from foundation.error_text import error_text
from foundation.files.folder_lock import lock_folder
from foundation.files.output_folder import check_output_folder
from foundation.progress import ProgressBar
from foundation.suggestions import nearest_path

logger = logging.getLogger(__name__)

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765
_EVERY_ADDRESS = ("0.0.0.0", "::")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabellingTask:
    """The folders and options of `label_pictures`.

    images: a folder with the pictures, at any depth.
    out: the folder for labels, features and results.
    class_names: classes that exist before any picture has them.
    templates: texts with `{}` for the class name; without any, class names are not embedded. None is the default of
        `launch.py adapt`.
    host, port: where the server listens; port None is `DEFAULT_PORT`, or a free one if that is in use.
    open_browser: open the page in a browser, if there is a screen.
    """

    images: str
    out: pathlib.Path
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] | None = None
    host: str = DEFAULT_HOST
    port: int | None = None
    open_browser: bool = True

    def check(self) -> None:
        """Raise `ValueError` or `OSError` for options that cannot work, before a checkpoint is opened."""
        check_output_folder(self.out)
        for template in self.templates or ():
            check_template(template)
        if not os.path.isdir(self.images):
            raise FileNotFoundError(
                f"folder {self.images} does not exist.{nearest_path(self.images)} Set --images to an existing folder."
            )
        if self.out.exists() and not self.out.is_dir():
            raise FileExistsError(f"{self.out} is a file. Set --out to a folder.")
        images, out = pathlib.Path(self.images).resolve(), self.out.resolve()
        if images in (out, *out.parents):
            raise ValueError(
                f"--out={self.out} is in --images={self.images}, so results would be taken for pictures. Set --out to "
                "a folder elsewhere."
            )
        if out in images.parents:
            raise ValueError(
                f"--images={self.images} is in --out={self.out}, where an export moves files. Set --out to a folder "
                "elsewhere."
            )


def label_pictures(encoder: Encoder, task: LabellingTask) -> None:
    """Serve the page of a session until the process is interrupted.

    Raises `ValueError` or `OSError` as `LabellingTask.check` does, where the address is in use, and where another
    process has `task.out`.
    """
    task.check()
    templates = choose_templates(encoder, task.templates)
    pictures = PictureFolder(task.images)
    with lock_folder(task.out, ".label.lock", job="label job", option="--out"), _listen(task) as listener:
        embed = _TextEmbedder(encoder, templates)
        session = LabellingSession(
            pictures,
            task.out,
            dim=encoder.dim,
            class_names=task.class_names,
            embed_text=embed.text if encoder.embeds_texts else None,
            embed_class=embed.class_name if templates else None,
        )
        for problem in _problems(session):
            logger.warning(problem)
        described = {
            "templates": list(templates),
            "checkpoint": encoder.name,
            "checkpoint_fingerprint": encoder.fingerprint if templates else encoder.image_fingerprint,
        }

        def export(placement: str, progress) -> Exported:
            return export_session(session, placement=placement, described=described, progress=progress)

        stop = threading.Event()
        workers = ThreadPoolExecutor(1, thread_name_prefix="class-texts")

        def embed_class(name: str) -> None:
            workers.submit(_report_failure, session.add_class_text, name)

        host, port = listener.getsockname()[:2]
        token = read_token(task.out)
        server = LabellingServer(
            session, export=export, on_class=embed_class, token=token, host_names=_host_names(task.host)
        )
        address = f"http://{_shown_host(task.host, host)}:{port}/{token}/"
        logger.info(f"{len(pictures):,} pictures in {task.images}; labels are kept in {task.out}")
        logger.info(f"open {address} to label them; end with Ctrl-C")
        thread = threading.Thread(
            target=_embed, args=(pictures, encoder, session, store_folder(task.out, encoder), stop), daemon=True
        )
        for name in session.missing_texts:
            embed_class(name)
        thread.start()
        if task.open_browser and _has_screen():
            webbrowser.open(address)
        try:
            server.run(listener)
        except KeyboardInterrupt:
            pass  # how a session ends
        finally:
            stop.set()
            workers.shutdown(wait=False, cancel_futures=True)
            thread.join(timeout=30)
            logger.info(f"{len(session.labels):,} labels in {task.out}; run the same command to continue")


def _embed(
    pictures: PictureFolder, encoder: Encoder, session: LabellingSession, folder: pathlib.Path, stop: threading.Event
) -> None:
    """Embed all pictures, and tell the session."""
    try:
        with ProgressBar(len(pictures), description="embedded", unit="pictures", delay=2.0) as bar:

            def add(numbers: Sequence[int], features: np.ndarray) -> None:
                session.add_features(numbers, features)
                bar.update(len(numbers))

            def add_bad(number: int, reason: str) -> None:
                session.add_bad(number, reason)
                bar.update()

            store = FeatureStore(folder, encoder.dim)
            missing = load_stored(pictures, store, on_features=add)
            if not missing:
                pass
            elif jax.default_backend() == "cpu":
                embed_in_process(pictures, encoder, folder, missing, on_features=add, on_bad=add_bad, stop=stop)
            else:  # an accelerator belongs to one process, and leaves the processor to the page
                embed_missing(pictures, encoder, store, missing, on_features=add, on_bad=add_bad, stop=stop)
        if stop.is_set():
            return
        session.finish_embedding()
        if session.bad:
            logger.warning(f"{len(session.bad):,} files cannot be read; the page lists them")
    except (ValueError, OSError) as error:
        logger.error(f"embedding stopped: {error_text(error)}")
        session.finish_embedding(error_text(error))
    except BaseException as error:
        session.finish_embedding(f"an unexpected error, {type(error).__name__}; see the terminal")
        raise


class _TextEmbedder:
    """Unit features `[dim]` of texts and class names."""

    def __init__(self, encoder: Encoder, templates: Sequence[str]):
        self._encoder, self._templates = encoder, templates
        self._lock = threading.Lock()

    def text(self, text: str) -> np.ndarray:
        """Return the features of a text."""
        with self._lock:
            return normalize_numpy(self._encoder.embed_texts([text]))[0]

    def class_name(self, name: str) -> np.ndarray:
        """Return the mean of the features of a class in all templates."""
        texts = prompts([name.replace("_", " ")], self._templates)
        with self._lock:
            return mean_of_prompts(self._encoder.embed_texts(texts), len(self._templates))[0]


def _listen(task: LabellingTask) -> socket.socket:
    """Return a listening socket; raises `ValueError` if the address cannot be used."""
    family = socket.AF_INET6 if ":" in task.host else socket.AF_INET
    ports = (DEFAULT_PORT, 0) if task.port is None else (task.port,)
    problem: OSError | None = None
    for port in ports:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((task.host, port))
            listener.listen()
        except OSError as error:
            listener.close()
            problem = error
        else:
            return listener
    raise ValueError(
        f"cannot listen on --host={task.host} --port={ports[0]} ({error_text(problem)}). Use another --port, or 0 for "
        "a free one."
    )


def _host_names(host: str) -> frozenset[str]:
    """Return the names by which the server may be called, apart from numeric addresses."""
    own = {"localhost", host.lower()}
    if host in _EVERY_ADDRESS:
        name = socket.gethostname().lower()
        own |= {name, f"{name}.local", socket.getfqdn().lower()}
    return frozenset(own)


def _shown_host(given: str, bound: str) -> str:
    if given in _EVERY_ADDRESS:
        return _own_address()
    return f"[{bound}]" if ":" in bound else bound


def _own_address() -> str:
    """Return the address of this machine in its network, or its name; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation (RFC 5737)
        except OSError:
            return socket.gethostname()
        return probe.getsockname()[0]


def _has_screen() -> bool:
    """Return whether a browser window can open; text browsers would take over the terminal."""
    if not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _problems(session: LabellingSession) -> list[str]:
    """Return sentences about labels of pictures that the folder no longer has."""
    groups = (
        (session.missing_pictures, "are no longer in the folder"),
        (sorted(session.changed_pictures), "have another content than when they were labelled"),
    )
    return [
        f"{len(names):,} labelled pictures {what} and are ignored, first {names[0]}" for names, what in groups if names
    ]


def _report_failure(function, *arguments: object) -> None:
    try:
        function(*arguments)
    except Exception as error:  # class names then stay unused; the page works without
        logger.error(f"{arguments[0]!r} cannot be embedded: {error_text(error)}")
