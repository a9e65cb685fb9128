"""The published sets on a server of our own."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from archives import Archive, publish, write_archives
from neither.datasets.cifar import OfficialSet, fetch_sets


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - named by the library
        pass


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Archive]:
    return write_archives(tmp_path_factory.mktemp("published"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Yield a folder that a server on this machine serves, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    handler = partial(_Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def published(
    archives: dict[str, Archive], served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Let torchvision find the small archives where it looks for the real ones.

    Returns:
        The served folder with the two archives.
    """
    folder, address = served
    monkeypatch.setenv("no_proxy", "*")
    publish(monkeypatch, archives, address)
    for archive in archives.values():
        (folder / archive.file.name).write_bytes(archive.file.read_bytes())
    return folder


@pytest.fixture(scope="session")
def sets(
    archives: dict[str, Archive], tmp_path_factory: pytest.TempPathFactory
) -> list[OfficialSet]:
    """Return the small sets, read from archives that somebody put there by hand."""
    folder = tmp_path_factory.mktemp("by_hand")
    for archive in archives.values():
        (folder / archive.file.name).write_bytes(archive.file.read_bytes())
    with pytest.MonkeyPatch.context() as monkeypatch:
        publish(monkeypatch, archives, "http://127.0.0.1:1")
        return fetch_sets(folder)
