import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100

from archives import NAMES, Archive, labels_of, planes_of, sum_of
from neither.datasets.cifar import OfficialSet, download_folder, fetch_sets
from neither.runtime import files, signals
from neither.runtime.errors import OutputError

NOWHERE = "http://127.0.0.1:1"  # a port where nobody listens


def check_content(sets: list[OfficialSet]) -> None:
    parts = [("cifar10", "train"), ("cifar10", "test"), ("cifar100", "train"), ("cifar100", "test")]
    assert [(each.name, each.part) for each in sets] == parts
    for each in sets:
        planes = planes_of(each.name, each.part)
        assert each.kinds == [NAMES[each.name][k] for k in labels_of(each.name, each.part)]
        assert each.pixels.shape == (len(planes), 32, 32, 3)
        for colour in range(3):  # a plane holds rows from above, each from the left
            plane = planes[:, 1024 * colour : 1024 * (colour + 1)]
            assert np.array_equal(each.pixels[:, 5, 9, colour], plane[:, 5 * 32 + 9])
            assert np.array_equal(each.pixels[..., colour].reshape(-1, 1024), plane)


def fail(folder: Path) -> str:
    with pytest.raises(OutputError) as caught:
        fetch_sets(folder)
    text = str(caught.value)
    assert "\n" not in text
    cause = caught.value.__cause__
    assert not isinstance(cause, HTTPError) or cause.fp.closed  # or the connection would stay open
    return text


def test_what_is_published_is_downloaded_and_read(tmp_path: Path, published: Path) -> None:
    assert published.is_dir()
    check_content(fetch_sets(tmp_path / "cache" / "cifar"))


def test_the_second_time_nothing_is_downloaded(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert published.is_dir()
    fetch_sets(tmp_path / "cache")
    monkeypatch.setattr(CIFAR10, "url", f"{NOWHERE}/cifar-10-python.tar.gz")
    monkeypatch.setattr(CIFAR100, "url", f"{NOWHERE}/cifar-100-python.tar.gz")
    check_content(fetch_sets(tmp_path / "cache"))


def test_archives_put_there_by_hand_are_enough(sets: list[OfficialSet]) -> None:
    check_content(sets)


@pytest.mark.parametrize("damaged", ["cifar-10-batches-py/data_batch_2", "cifar-10-python.tar.gz"])
def test_what_is_damaged_is_made_anew(tmp_path: Path, published: Path, damaged: str) -> None:
    assert published.is_dir()
    cache = tmp_path / "cache"
    fetch_sets(cache)
    (cache / damaged).write_bytes(b"half")
    (cache / "cifar-10-batches-py" / "data_batch_1").unlink()
    check_content(fetch_sets(cache))


def test_without_a_network_it_says_which_files_to_put_where(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert published.is_dir()
    monkeypatch.setattr(CIFAR10, "url", f"{NOWHERE}/cifar-10-python.tar.gz")
    text = fail(tmp_path / "cache")
    assert text.startswith(f"CIFAR10 cannot be downloaded from {NOWHERE}/cifar-10-python.tar.gz (")
    assert "Connection refused" in text
    assert "put cifar-10-python.tar.gz and cifar-100-python.tar.gz, fetched elsewhere, " in text
    assert text.endswith(f"into {tmp_path / 'cache'}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path, published: Path) -> None:
    (published / "cifar-100-python.tar.gz").unlink()
    text = fail(tmp_path / "cache")
    assert text.startswith("CIFAR100 cannot be downloaded from ")
    assert "not found" in text.lower()


def test_a_server_that_talks_nonsense_is_one_line(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert published.is_dir()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"hello\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/cifar-10-python.tar.gz")
        assert "hello" in fail(tmp_path / "cache")
        thread.join()


def test_another_file_under_the_name_is_refused(tmp_path: Path, published: Path) -> None:
    (published / "cifar-10-python.tar.gz").write_bytes(b"<html>Please log in</html>")
    assert "corrupted" in fail(tmp_path / "cache")


def test_an_archive_that_cannot_be_unpacked_is_one_line(
    tmp_path: Path,
    published: Path,
    archives: dict[str, Archive],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = archives["cifar10"].file.read_bytes()
    half = len(content) // 2
    for bad in (content[:half], content[:half] + bytes(half), b"no archive at all"):
        (published / "cifar-10-python.tar.gz").write_bytes(bad)
        monkeypatch.setattr(CIFAR10, "tgz_md5", sum_of(bad))
        fail(tmp_path / "cache")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, published: Path) -> None:
    assert published.is_dir()
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fail(tmp_path / "file" / "cache")


@pytest.fixture
def silent(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let CIFAR-10 come from a server that never answers; yield whether it was asked."""
    assert published.is_dir()
    asked, over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            connection, _ = server.accept()
            asked.set()
            over.wait(20)
            connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        port = server.getsockname()[1]
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/cifar-10-python.tar.gz")
        yield asked
        over.set()
        thread.join()


def test_a_server_that_falls_silent_is_given_up(
    tmp_path: Path, silent: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_TIMEOUT_SECONDS", 0.2)
    assert "timed out" in fail(tmp_path / "cache")
    assert silent.is_set()
    assert socket.getdefaulttimeout() is None


def test_a_signal_ends_a_download(tmp_path: Path, silent: threading.Event) -> None:
    def interrupt() -> None:
        silent.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    with signals.installed():
        thread.start()
        with pytest.raises(signals.Stopped):
            fetch_sets(tmp_path / "cache")
    thread.join()


def test_off_a_terminal_there_is_no_bar(
    tmp_path: Path, published: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert published.is_dir()
    fetch_sets(tmp_path / "cache")
    printed = capfd.readouterr()
    assert "%" not in printed.out + printed.err
    assert "\r" not in printed.out + printed.err


def test_warnings_of_old_pickles_are_not_passed_on(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert published.is_dir()
    load = CIFAR10._load_meta

    def load_and_warn(self: CIFAR10) -> None:
        warnings.warn("dtype(): align should be passed as a boolean", UserWarning, stacklevel=1)
        load(self)

    monkeypatch.setattr(CIFAR10, "_load_meta", load_and_warn)
    check_content(fetch_sets(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("named", "cache"),
    [
        ("/var/mine", "/var/mine"),
        ("", "/home/me/.cache"),
        ("mine", "/home/me/.cache"),
        (None, "/home/me/.cache"),
    ],
)
def test_downloads_lie_in_the_cache_of_the_user(
    named: str | None, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if named is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert download_folder() == Path(cache) / "neither" / "cifar"
