"""Byte-range reads of local files and of real servers on loopback: S3, and HTTP with and without range requests."""

import concurrent.futures
import functools
import http.server
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

from data.io import storage
from data.io.storage import find_files, read_file, read_range
from data.sources.open import open_source
from tests.data.shard_files import labelled, png, write_shard


def test_local_files_are_found_sorted_and_read_by_range(tmp_path):
    for name in ("b.tar", "a.tar"):
        (tmp_path / name).write_bytes(b"0123456789")
    files = find_files(str(tmp_path / "*.tar"))
    assert [file.name for file in files] == ["a.tar", "b.tar"] and files[0].size == 10
    assert read_range(files[0], 3, 6) == b"345" and read_range(files[0], 8, 20) == b"89"
    (tmp_path / "[x].tar").write_bytes(b"x")
    assert [file.name for file in find_files(str(tmp_path / "[x].tar"))] == [
        "[x].tar"
    ]  # an existing file takes precedence over a pattern
    with pytest.raises(FileNotFoundError, match=r"c\.tar"):
        find_files(str(tmp_path / "{a,c}.tar"))


def test_a_replaced_file_is_opened_again(tmp_path):
    path = tmp_path / "a"
    for content in (b"one", b"two2"):
        (tmp_path / "new").write_bytes(content)
        os.replace(tmp_path / "new", path)
        assert read_range(find_files(str(path))[0], 0, 4) == content


def test_more_files_than_stay_open_can_be_read(tmp_path):
    for number in range(storage._OPEN_FILES + 20):
        (tmp_path / f"{number:04d}").write_bytes(str(number).encode())
    files = find_files(str(tmp_path / "*"))
    for _ in range(2):
        assert [int(read_range(file, 0, 9)) for file in files] == list(range(len(files)))


def test_many_threads_can_read_more_files_than_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_open_files", storage._OpenFiles(3))
    for number in range(12):
        (tmp_path / f"{number:02d}").write_bytes(bytes([number]) * 100)
    files = find_files(str(tmp_path / "*"))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(16) as threads:
            order = np.random.default_rng(0).integers(12, size=20_000).tolist()
            read = threads.map(lambda number: read_range(files[number], number, number + 50), order, chunksize=50)
            assert all(content == bytes([number]) * 50 for number, content in zip(order, read, strict=True))
    finally:
        sys.setswitchinterval(interval)


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """A file server that supports ranges; `ranges` counts range requests, and the next `fails` requests fail."""

    ranges, fails = 0, 0

    def do_GET(self):
        cls = type(self)
        if cls.fails:
            cls.fails -= 1
            self.send_error(503)
            return
        wanted = self.headers.get("Range")
        path = self.translate_path(self.path)
        if not wanted or not os.path.isfile(path):
            super().do_GET()
            return
        cls.ranges += 1
        first, last = wanted.removeprefix("bytes=").split("-")
        content = pathlib.Path(path).read_bytes()
        part = content[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *arguments):
        pass


class WholeFileHandler(http.server.SimpleHTTPRequestHandler):
    """Python's own file server, which answers a request for a range with the whole file."""

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve(tmp_path):
    """Serve `tmp_path/www` with a given handler, and return the address."""
    servers = []
    (tmp_path / "www").mkdir()

    def start(handler):
        handler = functools.partial(handler, directory=str(tmp_path / "www"))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_shards_on_a_web_server_are_read_by_range(tmp_path, serve):
    for number in range(2):
        write_shard(tmp_path / "www" / f"s-{number}.tar", labelled(5, size=(64, 64)))
    address = serve(RangeHandler)
    RangeHandler.ranges = 0
    source = open_source(f"{address}/s-{{0..1}}.tar", tmp_path / "cache")
    indexed = RangeHandler.ranges
    assert len(source) == 10 and source[7].image == png(2, (64, 64)) and source[7].texts == ("thing 2",)
    assert RangeHandler.ranges == indexed + 2  # one request per sample
    again = open_source(f"{address}/s-{{0..1}}.tar", tmp_path / "cache")
    assert len(again) == 10 and RangeHandler.ranges == indexed + 2  # the index is cached
    assert [file.name for file in find_files(f"{address}/s-*.tar")] == ["s-0.tar", "s-1.tar"]


def test_failed_requests_are_retried(tmp_path, serve, monkeypatch):
    monkeypatch.setattr(storage, "_FIRST_DELAY", 0.01)
    (tmp_path / "www" / "x").write_bytes(b"0123456789")
    address = serve(RangeHandler)
    file = find_files(f"{address}/x")[0]
    RangeHandler.fails = 3
    assert read_range(file, 2, 5) == b"234"
    RangeHandler.fails = 4
    with pytest.raises(OSError, match="x cannot be read after 4 attempts"):
        read_range(file, 2, 5)
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        read_file(f"{address}/none")


def test_a_web_server_without_ranges_is_reported(tmp_path, serve):
    (tmp_path / "www" / "x").write_bytes(b"0123456789")
    file = find_files(f"{serve(WholeFileHandler)}/x")[0]
    with pytest.raises(OSError, match=r"sends whole files instead of ranges\. Use one that"):
        read_range(file, 2, 5)


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A bucket on an S3 server in another process, configured through the environment as users do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=log)
    address = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        for _ in range(200):
            try:
                urllib.request.urlopen(address, timeout=1)
                break
            except OSError:
                assert server.poll() is None, "the S3 server exited"
                time.sleep(0.1)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem()
        system.mkdir("bucket")
        yield system
        s3fs.S3FileSystem.clear_instance_cache()
        storage.filesystem.cache_clear()
    server.terminate()
    server.wait()
    log.close()


def test_shards_on_s3(tmp_path, s3):
    for number in range(3):
        path = write_shard(tmp_path / f"s-{number}.tar", labelled(4 + number))
        s3.put(str(path), f"bucket/train/s-{number}.tar")
    source = open_source("s3://bucket/train/s-*.tar", tmp_path / "cache")
    assert len(source) == 15 and source.key(4) == "s-1.tar/0000"
    assert (source[9].image, source[9].texts) == (png(0), ("thing 0",))
    indexes = sorted((tmp_path / "cache").rglob("*.safetensors"))
    before = [path.stat().st_mtime_ns for path in indexes]
    assert len(indexes) == 3
    s3.put(str(write_shard(tmp_path / "new.tar", labelled(9))), "bucket/train/s-1.tar")
    s3.invalidate_cache()
    again = open_source("s3://bucket/train/s-*.tar", tmp_path / "cache")
    changed = [path.stat().st_mtime_ns != time for path, time in zip(indexes, before, strict=True)]
    assert len(again) == 19 and changed == [False, True, False]


def test_tables_and_class_folders_on_s3(tmp_path, s3):
    s3.pipe("bucket/photos/ant/1.png", png(1))
    s3.pipe("bucket/photos/bee/2.png", png(2))
    s3.pipe("bucket/photos/table.csv", b"path,caption\nant/1.png,an ant\ns3://bucket/photos/bee/2.png,a bee\n")
    folders = open_source("s3://bucket/photos/", tmp_path)
    assert [(folders[i].class_name, folders[i].image) for i in range(2)] == [("ant", png(1)), ("bee", png(2))]
    table = open_source("s3://bucket/photos/table.csv", tmp_path)
    assert [(table[i].texts, table[i].image) for i in range(2)] == [(("an ant",), png(1)), (("a bee",), png(2))]


def test_missing_files_on_s3_are_reported(tmp_path, s3):
    with pytest.raises(FileNotFoundError, match=r"no file matches 's3://bucket/none-\*\.tar'"):
        open_source("s3://bucket/none-*.tar", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"s3://bucket/none\.tar does not exist"):
        open_source("s3://bucket/none.tar", tmp_path)
