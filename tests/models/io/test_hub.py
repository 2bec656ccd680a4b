"""Hub IDs, downloaded from a local server that answers like the Hugging Face Hub."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import types
import urllib.parse

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from models.checkpoints.io import save_checkpoint
from models.io.hub import fetch
from tests.models.tiny_models import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[3]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves the folders of `server.repositories` by ID and records which files are downloaded."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        for name, folder in self.server.repositories.items():
            if path.startswith(f"/api/models/{name}/tree/"):
                sizes = [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())]
                tree = [{"type": "file", "path": path, "size": size, "oid": path} for path, size in sizes]
                return self._send(json.dumps(tree).encode(), body, {})
            if path.startswith(f"/api/models/{name}"):
                files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                return self._send(json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode(), body, {})
            prefix = f"/{name}/resolve/{COMMIT}/"
            if path.startswith(prefix) and (folder / path.removeprefix(prefix)).is_file():
                content = (folder / path.removeprefix(prefix)).read_bytes()
                if body:
                    self.server.fetched.append(path.removeprefix(prefix))
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                return self._send(content, body, {"ETag": etag, "X-Repo-Commit": COMMIT})
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _send(self, content, body, headers):
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / "published"
    save_checkpoint(folder, tiny_checkpoint("siglip"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "open_clip_model.safetensors").write_bytes(b"the same weights again")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories, server.fetched = {"someone/siglip": folder}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def open_here(hub, cache, name, **environment):
    """Open a Hub ID in a separate process that uses the server as the Hub; return the process."""
    code = f"from models.checkpoints.io import open_checkpoint; print(open_checkpoint({name!r}).settings.dim)"
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **settings, "HF_HUB_OFFLINE": "0", "no_proxy": "127.0.0.1", **environment},
    )


@pytest.mark.slow
def test_hub_id_is_downloaded_once_without_pickles_and_then_opens_offline(hub, tmp_path):
    first = open_here(hub, tmp_path / "cache", "someone/siglip")
    assert first.stdout.strip() == "24", first.stderr
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}
    names.add("SHA256SUMS")
    assert set(hub.fetched) == names and len(hub.fetched) == len(names)
    assert open_here(hub, tmp_path / "cache", "hf-hub:someone/siglip").stdout.strip() == "24"
    assert len(hub.fetched) == len(names)
    assert open_here(hub, tmp_path / "cache", "someone/siglip", HF_HUB_OFFLINE="1").stdout.strip() == "24"
    unknown = open_here(hub, tmp_path / "cache", "someone/else")
    assert unknown.returncode == 1
    assert (
        "checkpoint 'someone/else' does not exist locally, is not cached, and the Hub cannot be reached"
        in unknown.stderr
    )


@pytest.mark.slow
@pytest.mark.parametrize("where", ["on the Hub", "in the cache"])
def test_damaged_weights_of_a_hub_id_are_not_opened(hub, tmp_path, where):
    published = hub.repositories["someone/siglip"] / "model.safetensors"
    if where == "in the cache":
        assert open_here(hub, tmp_path / "cache", "someone/siglip").returncode == 0
        published = next((tmp_path / "cache").rglob("snapshots/*/model.safetensors")).resolve()
    content = bytearray(published.read_bytes())
    content[-5] ^= 1
    published.write_bytes(content)
    for name in ("someone/siglip", "hf-hub:someone/siglip"):
        found = open_here(hub, tmp_path / "cache", name)
        assert found.returncode == 1 and "does not have the checksum in SHA256SUMS" in found.stderr


def test_unknown_repository_is_not_reported_as_a_network_problem(monkeypatch):
    def refuse(*_, **__):
        response = types.SimpleNamespace(headers={}, request=None)
        raise RepositoryNotFoundError("404 Client Error", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        OSError, match=r"and the Hub has no such repository .* \(404 Client Error\)\. Check the name, or"
    ):
        fetch("someone/else", ("*.json",), what="checkpoint")
