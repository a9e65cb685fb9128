"""CIFAR: small archives, served by this machine, are downloaded, read and sorted into classes."""

import os
import re
import shutil
import signal
import socket
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from archives import (
    NAMES,
    NAMES10,
    NAMES100,
    Archive,
    labels_of,
    planes_of,
    publish,
    sum_of,
    write_archives,
)
from moments import before, terminate
from neither.datasets.cifar import (
    HUMANS,
    UNSEEN,
    VAL_FRACTION,
    OfficialSet,
    choose_images,
    fetch_sets,
    is_prepared,
    write_images,
)
from neither.runtime import files, signals
from neither.runtime.console import ProgressBar
from neither.runtime.errors import OutputError
from outputs import contents

Patch = pytest.MonkeyPatch
SPLITS = ("train", "val", "test")
UNREACHABLE = "http://127.0.0.1:1"  # a port without a server
Location = tuple[str, str, str, str, str, int]  # split, label, source, kind, official part, index


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Archive]:
    return write_archives(tmp_path_factory.mktemp("published"))


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 - named by the library
        pass


@pytest.fixture
def published(archives: dict[str, Archive], tmp_path: Path, monkeypatch: Patch) -> Iterator[Path]:
    """Let torchvision find the small archives; yield the folder that a local server serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    for archive in archives.values():
        shutil.copy(archive.file, folder)
    handler = partial(_Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("no_proxy", "*")
        publish(monkeypatch, archives, f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def sets(archives: dict[str, Archive]) -> list[OfficialSet]:
    """Return the small sets, read from archives that are in the folder already."""
    with Patch.context() as monkeypatch:
        publish(monkeypatch, archives, UNREACHABLE)
        return fetch_sets(archives["cifar10"].file.parent)


@pytest.fixture(scope="module")
def made(sets: list[OfficialSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "cifar"
    write_images(sets, folder)
    return folder


@pytest.fixture(scope="module")
def locations(made: Path) -> list[Location]:
    """Return the parts of each image's path, of the splits and of the unseen kinds."""
    found = []
    for path in sorted(made.rglob("*.png")):
        split, label, name = path.relative_to(made).parts
        match = re.fullmatch(r"(cifar10|cifar100)_(\w+)_(train|test)_(\d{5})\.png", name)
        assert match, path
        source, kind, part, index = match.groups()
        found.append((split, label, source, kind, part, int(index)))
    return found


# Downloading and reading


def check_content(sets: list[OfficialSet]) -> None:
    parts = [("cifar10", "train"), ("cifar10", "test"), ("cifar100", "train"), ("cifar100", "test")]
    assert [(each.name, each.part) for each in sets] == parts
    for each in sets:
        planes = planes_of(each.name, each.part)
        assert each.kinds == [NAMES[each.name][k] for k in labels_of(each.name, each.part)]
        expected = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        assert np.array_equal(each.pixels, expected)


def fail(folder: Path) -> str:
    with pytest.raises(OutputError) as caught:
        fetch_sets(folder)
    text = str(caught.value)
    assert "\n" not in text
    cause = caught.value.__cause__
    assert not isinstance(cause, HTTPError) or cause.fp.closed  # or the connection would stay open
    return text


@pytest.mark.usefixtures("published")
def test_downloading(tmp_path: Path, monkeypatch: Patch, capfd: pytest.CaptureFixture[str]) -> None:
    """Without torchvision's warnings or progress bar, and once."""
    load = CIFAR10._load_meta

    def load_and_warn(self: CIFAR10) -> None:
        warnings.warn("dtype(): align should be passed as a boolean", UserWarning, stacklevel=1)
        load(self)

    monkeypatch.setattr(CIFAR10, "_load_meta", load_and_warn)
    check_content(fetch_sets(tmp_path / "cache" / "cifar"))
    out, err = capfd.readouterr()
    assert not set("%\r") & set(out + err)
    for source in (CIFAR10, CIFAR100):
        monkeypatch.setattr(source, "url", f"{UNREACHABLE}/{source.filename}")
    check_content(fetch_sets(tmp_path / "cache" / "cifar"))


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("damaged", ["cifar-10-batches-py/data_batch_2", "cifar-10-python.tar.gz"])
def test_damaged_files_are_replaced(tmp_path: Path, damaged: str) -> None:
    cache = tmp_path / "cache"
    fetch_sets(cache)
    (cache / damaged).write_bytes(b"half")
    (cache / "cifar-10-batches-py" / "data_batch_1").unlink()
    check_content(fetch_sets(cache))


@pytest.mark.usefixtures("published")
def test_without_a_network_the_message_names_the_files(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(CIFAR10, "url", f"{UNREACHABLE}/cifar-10-python.tar.gz")
    text = fail(tmp_path / "cache")
    assert text.startswith(f"CIFAR10 cannot be downloaded from {CIFAR10.url} (")
    assert "Connection refused" in text
    assert "cifar-10-python.tar.gz and cifar-100-python.tar.gz" in text
    assert text.endswith(f"into {tmp_path / 'cache'}")


def test_bad_archives_and_folders(tmp_path: Path, published: Path, monkeypatch: Patch) -> None:
    content = (published / "cifar-10-python.tar.gz").read_bytes()
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fail(tmp_path / "file" / "cache")
    (published / "cifar-100-python.tar.gz").unlink()
    text = fail(tmp_path / "cache")
    assert text.startswith("CIFAR100 cannot be downloaded from ")
    assert "not found" in text.lower()
    (published / "cifar-10-python.tar.gz").write_bytes(b"<html>Please log in</html>")
    assert "corrupted" in fail(tmp_path / "other_cache")
    half = len(content) // 2
    for bad in (content[:half], content[:half] + bytes(half), b"no archive at all"):
        (published / "cifar-10-python.tar.gz").write_bytes(bad)
        monkeypatch.setattr(CIFAR10, "tgz_md5", sum_of(bad))
        fail(tmp_path / "other_cache")


@contextmanager
def answering(monkeypatch: Patch, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Let CIFAR-10 come from a server that answers its one connection like this."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            connection, _ = server.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        port = server.getsockname()[1]
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/cifar-10-python.tar.gz")
        yield
        thread.join()


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("end", ["answer", "timeout", "signal"])
def test_a_server_without_http(tmp_path: Path, monkeypatch: Patch, end: str) -> None:
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        if end == "answer":
            connection.recv(1000)
            connection.sendall(b"hello\r\n\r\n")
            return
        if end == "signal":
            os.kill(os.getpid(), signal.SIGINT)
        over.wait(20)

    with answering(monkeypatch, answer), signals.installed():
        if end == "answer":
            assert "hello" in fail(tmp_path / "cache")
        elif end == "timeout":
            monkeypatch.setattr(files, "_TIMEOUT_SECONDS", 0.2)
            assert "timed out" in fail(tmp_path / "cache")
        else:
            with pytest.raises(signals.Stopped):
                fetch_sets(tmp_path / "cache")
        over.set()
    assert socket.getdefaulttimeout() is None


# Choosing and writing


def test_each_image_is_in_the_folder_of_its_class(locations: list[Location]) -> None:
    for split, label, source, kind, part, _ in locations:
        assert kind in (NAMES10 if source == "cifar10" else NAMES100)
        assert (part == "test") == (split in ("test", "unseen"))
        if split == "unseen":
            assert label == kind
            continue
        is_dog = (source, kind) == ("cifar10", "dog")
        is_human = source == "cifar100" and kind in HUMANS
        assert label == ("dog" if is_dog else "human" if is_human else "neither")


def test_the_unseen_kinds_are_in_no_split(locations: list[Location]) -> None:
    assert len(set(UNSEEN)) == 20
    assert set(UNSEEN) < set(NAMES100) - set(HUMANS)
    assert {"wolf", "fox", "chimpanzee"} < set(UNSEEN)
    assert not {kind for split, _, _, kind, *_ in locations if split != "unseen"} & set(UNSEEN)
    unseen = Counter(kind for split, _, _, kind, _, _ in locations if split == "unseen")
    assert unseen == {kind: 4 for kind in UNSEEN}  # noqa: C420 - all that the test set has


@pytest.mark.parametrize("split", SPLITS)
def test_half_of_either_source_is_neither(locations: list[Location], split: str) -> None:
    quarters = Counter((source, label) for of, label, source, *_ in locations if of == split)
    expected = {("cifar10", "dog"), ("cifar10", "neither"), ("cifar100", "human"),
                ("cifar100", "neither")}  # fmt: skip
    assert set(quarters) == expected
    assert len(set(quarters.values())) == 1
    if split == "test":
        assert quarters["cifar10", "dog"] == 4 * len(HUMANS)  # every human there is


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_neither_is_of_all_kinds_evenly(locations: list[Location], split: str, source: str) -> None:
    kinds = Counter(each[3] for each in locations if each[:3] == (split, "neither", source))
    possible = set(NAMES[source]) - {"dog", *UNSEEN, *HUMANS}
    assert len(possible) == (9 if source == "cifar10" else 75)
    counts = [kinds[kind] for kind in possible]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == kinds.total()


def test_other_kinds_make_up_for_a_rare_one(sets: list[OfficialSet]) -> None:
    test = sets[3]
    things = ["apple", "bed", "bee", "bowl", "bus", "can"]
    kept = [index for index, kind in enumerate(test.kinds) if kind in (*HUMANS, *things[1:])]
    kept.append(test.kinds.index("apple"))  # 1 apple and 4 of each of the others, to choose 20
    few = replace(test, pixels=test.pixels[kept], kinds=[test.kinds[index] for index in kept])
    names = [path for path in choose_images([*sets[:3], few]) if path.startswith("test/neither")]
    counts = Counter(path.split("_")[1] for path in names if "cifar100" in path)
    assert set(counts) == set(things)
    assert counts["apple"] == 1
    assert counts.total() == 20


def test_val_is_disjoint_from_train(made: Path, locations: list[Location]) -> None:
    splits = {split: {each[2:] for each in locations if each[0] == split} for split in SPLITS}
    assert not splits["val"] & splits["train"]
    total = len(splits["val"]) + len(splits["train"])
    assert len(splits["val"]) / total == pytest.approx(VAL_FRACTION, abs=0.08)
    pixels = {split: set(contents(made / split).values()) for split in SPLITS}
    assert not pixels["val"] & pixels["train"]


def test_the_choice_depends_on_no_order(sets: list[OfficialSet]) -> None:
    def by_folder(chosen: list[OfficialSet]) -> set[tuple[str, bytes]]:
        found = choose_images(chosen)
        return {(str(Path(path).parent), pixels.tobytes()) for path, pixels in found.items()}

    turned = [
        replace(each, pixels=each.pixels[::-1], kinds=each.kinds[::-1]) for each in sets[::-1]
    ]
    assert by_folder(turned) == by_folder(sets)


def test_the_pixels_are_those_of_the_source(made: Path, locations: list[Location]) -> None:
    planes = {(s, p): planes_of(s, p) for s in ("cifar10", "cifar100") for p in ("train", "test")}
    for split, label, source, kind, part, index in locations:
        path = made / split / label / f"{source}_{kind}_{part}_{index:05d}.png"
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
            pixels = np.asarray(image)
        expected = planes[source, part][index].reshape(3, 32, 32)
        assert np.array_equal(pixels.transpose(2, 0, 1), expected)


def test_the_same_bytes_each_time(sets: list[OfficialSet], made: Path, tmp_path: Path) -> None:
    write_images(sets, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(made)


def test_a_prepared_folder_is_recognised_and_another_refused(made: Path, tmp_path: Path) -> None:
    assert is_prepared(made)
    assert not is_prepared(tmp_path / "new")
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        is_prepared(tmp_path)


def test_a_stop_leaves_nothing(sets: list[OfficialSet], tmp_path: Path, monkeypatch: Patch) -> None:
    before(ProgressBar, "advance", 50, terminate)(monkeypatch)
    with signals.installed(), pytest.raises(signals.Stopped):
        write_images(sets, tmp_path / "cifar")
    assert not list(tmp_path.iterdir())
