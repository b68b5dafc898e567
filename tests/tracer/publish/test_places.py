"""Where a dataset can be: folders, their URLs, object stores, wrapped file systems, and over HTTP to be read."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from redecode.tracer import Dataset, Recorder, Store
from redecode.tracer.errors import StoreError, StoreUnwritable
from redecode.tracer.store.dataset import open_store
from tests.tracer.export.recorded_runs import keep
from tests.tracer.publish.support import equal, files, publish, same, some_run


@pytest.fixture(autouse=True)
def _nothing_in_memory() -> Iterator[None]:
    yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.mark.parametrize(
    "url", ["{}/dest", "file://{}/dest", "local://{}/dest", "file://{}/with%20blank", "dir::file://{}/dest",
            "memory://bucket/dest", "dir::memory://bucket/dest"],
)  # fmt: skip
def test_publish_grow_and_read_back(tmp_path: Path, url: str) -> None:
    place = url.format(tmp_path)
    store = keep(tmp_path / "store", [some_run(1), some_run(2, "a/b=c")])
    assert publish(store, place) == (2, 0, 0, 0)
    assert publish(keep(store.path, [some_run(3)]), place) == (1, 0, 2, 0)
    assert publish(store, place) == (0, 0, 3, 0)
    dataset = open_store(place)
    assert isinstance(dataset, Dataset)
    assert equal(store, dataset)
    assert dataset.find("0" * 31 + "3") == f"{3:032x}"
    assert (dataset.health().runs, len(dataset.health().stores)) == (3, 1)
    assert dataset.health().bytes > 1000
    assert not (store.path / "publishing").exists()  # nothing is left on its way
    if "memory" not in url:
        folder = tmp_path / ("with blank" if "%20" in url else "dest")
        assert files(folder).keys() >= {"_redecode.json"}
        assert not [name for name in files(folder) if Path(name).name.startswith(".")]


class Handler(SimpleHTTPRequestHandler):
    """Lists folders and gives ranges of files, as web servers do."""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked, path = self.headers.get("Range"), Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def over_http(tmp_path: Path) -> Iterator[str]:
    """The folder `dest`, served by an ordinary web server."""
    (tmp_path / "dest").mkdir()
    handler = functools.partial(Handler, directory=str(tmp_path / "dest"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_dataset_that_is_served_over_http_is_read(tmp_path: Path, over_http: str) -> None:
    pytest.importorskip("aiohttp")
    store = keep(tmp_path / "store", [some_run(1), some_run(2)])
    publish(store, tmp_path / "dest")
    assert equal(store, Dataset(over_http))
    with pytest.raises(StoreUnwritable, match=f"cannot use {over_http}"):
        publish(keep(store.path, [some_run(3)]), over_http)


def test_places_that_cannot_be(tmp_path: Path) -> None:
    store = keep(tmp_path / "store", [some_run(1)])
    with pytest.raises(StoreError, match="nosuch://bucket/x: Protocol not known: nosuch"):
        publish(store, "nosuch://bucket/x")
    with pytest.raises(StoreError, match="no dataset at memory://nowhere"):
        Dataset("memory://nowhere")
    with pytest.raises(StoreError, match=r"cannot use http://127\.0\.0\.1:9/x"):
        Dataset("http://127.0.0.1:9/x")
    with fsspec.open("memory://mine/thesis.txt", "w") as file:
        file.write("mine")
    with pytest.raises(StoreUnwritable, match="holds something else than a published dataset"):
        publish(store, "memory://mine")


def test_what_is_named_decides_between_store_and_dataset(tmp_path: Path) -> None:
    store = keep(tmp_path / "store", [some_run(1)])
    publish(store, tmp_path / "dest")
    assert isinstance(open_store(tmp_path / "store"), Store)
    assert isinstance(open_store(str(tmp_path / "dest")), Dataset)
    with pytest.raises(StoreError, match="is a published dataset, which can only be read"):
        Store(tmp_path / "dest")
    before = files(tmp_path / "dest")
    with pytest.raises(StoreUnwritable, match="is a published dataset, which can only be read; choose another"):
        Recorder(tmp_path / "dest")
    assert files(tmp_path / "dest") == before
    with pytest.raises(StoreError, match="no store at"):
        open_store(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("table", ["runs", "decodes", "edges"])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """DuckDB opens one for its columns and again for its rows: where it looks for the ids are then fewer of them, say,
    and the run has no rows. So it is replaced before each opening in turn.
    """
    memory, opened = fsspec.filesystem("memory"), list[str]()
    turn, straight = 0, type(memory)._open
    while turn <= min(len(opened), 5):
        turn, url = turn + 1, f"memory://bucket/dest-{turn}"
        opened.clear()
        store = keep(tmp_path / f"store-{turn}", [some_run(1), some_run(3)])
        publish(store, url)
        dataset, wanted = Dataset(url), store.load(f"{3:032x}")
        assert len(dataset.runs()) == 2

        def opening(
            files: Any, path: str, *args: Any, turn: int = turn, store: Store = store, url: str = url, **kwargs: Any
        ) -> Any:
            opened.extend([path] if f"/{table}/" in path else [])
            if f"/{table}/" in path and len(opened) == turn:
                monkeypatch.undo()
                publish(keep(store.path, [some_run(number) for number in (2, 4, 5)]), url)
                monkeypatch.setattr(type(memory), "_open", opening)
            return straight(files, path, *args, **kwargs)

        monkeypatch.setattr(type(memory), "_open", opening)
        assert same(dataset.load(f"{3:032x}")) == same(wanted)
        monkeypatch.undo()
        assert len(dataset.runs()) == (5 if turn <= len(opened) else 2)
    assert turn > 4
