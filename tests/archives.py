"""CIFAR-10 and CIFAR-100 in the form they are published in, but small.

The published files were pickled by Python 2: their texts are byte strings, and their arrays name
modules of that time. Only files of the same kind show that those can be read.
"""

import io
import pickle
import struct
import tarfile
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100

_KINDS10 = "airplane automobile bird cat deer dog frog horse ship truck"
_KINDS100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
NAMES10, NAMES100 = _KINDS10.split(), _KINDS100.split()
NAMES = {"cifar10": NAMES10, "cifar100": NAMES100}
PER_KIND = {"cifar10": {"train": 80, "test": 30}, "cifar100": {"train": 12, "test": 4}}

Md5s = dict[str, str]


@dataclass(frozen=True)
class Archive:
    """One published archive.

    Attributes:
        file: the .tar.gz.
        md5: of it.
        members: the MD5 sum of each file in it, by its name below the archive's one folder.
    """

    file: Path
    md5: str
    members: Md5s


def labels_of(name: str, part: str) -> list[int]:
    """Return the label of each image of a set; kinds are mixed, as in the real sets."""
    num = len(NAMES[name])
    labels = np.arange(num * PER_KIND[name][part]) % num
    return [int(each) for each in np.random.default_rng([num, len(part)]).permutation(labels)]


def planes_of(name: str, part: str) -> NDArray[np.uint8]:
    """Return the images of a set: (N, 3072), 1024 bytes of red, then of green, then of blue."""
    size = (len(labels_of(name, part)), 3072)
    random = np.random.default_rng([len(name), len(part)])
    return random.integers(0, 256, size, dtype=np.uint8)


_Pickler: Any = vars(pickle)["_Pickler"]  # the one that is written in Python


class Python2Pickler(_Pickler):  # type: ignore[misc]
    """Pickles texts as byte strings, as Python 2 did."""

    dispatch: ClassVar = dict(_Pickler.dispatch)

    def save_string(self, value: bytes | str) -> None:
        content = value if isinstance(value, bytes) else value.encode()
        self.write(b"T" + struct.pack("<i", len(content)) + content)

    dispatch[bytes] = dispatch[str] = save_string


def pickle_of_python_2(value: object) -> bytes:
    """Pickle as Python 2 did in protocol 2, with the names that NumPy's modules had then."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def write_archives(folder: Path) -> dict[str, Archive]:
    """Write both archives."""
    return {"cifar10": write_cifar10(folder), "cifar100": write_cifar100(folder)}


def publish(monkeypatch: pytest.MonkeyPatch, archives: dict[str, Archive], address: str) -> None:
    """Replace the published sums and addresses by those of the small files."""
    for name, source in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        sums = archives[name].members
        monkeypatch.setattr(source, "url", f"{address}/{source.filename}")
        monkeypatch.setattr(source, "tgz_md5", archives[name].md5)
        monkeypatch.setattr(source, "train_list", [(f, sums[f]) for f, _ in source.train_list])
        monkeypatch.setattr(source, "test_list", [(f, sums[f]) for f, _ in source.test_list])
        meta = source.meta | {"md5": sums[source.meta["filename"]]}
        monkeypatch.setattr(source, "meta", meta)


def write_cifar10(folder: Path) -> Archive:
    """Write cifar-10-python.tar.gz."""
    labels, planes = labels_of("cifar10", "train"), planes_of("cifar10", "train")
    size = len(labels) // 5
    files = {}
    for number in range(5):
        here = slice(number * size, (number + 1) * size)
        batch_label = f"training batch {number + 1} of 5"
        files[f"data_batch_{number + 1}"] = batch10(batch_label, labels[here], planes[here])
    labels, planes = labels_of("cifar10", "test"), planes_of("cifar10", "test")
    files["test_batch"] = batch10("testing batch 1 of 1", labels, planes)
    meta = {"num_cases_per_batch": size, "label_names": NAMES10, "num_vis": 3072}
    files["batches.meta"] = pickle_of_python_2(meta)
    files["readme.html"] = b"<html></html>"
    return pack(folder / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)


def batch10(batch_label: str, labels: list[int], planes: NDArray[np.uint8]) -> bytes:
    names = [f"{NAMES10[label]}_s_{number:06}.png" for number, label in enumerate(labels)]
    return pickle_of_python_2(
        {"batch_label": batch_label, "labels": labels, "data": planes, "filenames": names}
    )


def write_cifar100(folder: Path) -> Archive:
    """Write cifar-100-python.tar.gz."""
    files = {}
    for part in ("train", "test"):
        labels = labels_of("cifar100", part)
        names = [f"{NAMES100[label]}_s_{number:06}.png" for number, label in enumerate(labels)]
        batch_label = {"train": "training batch 1 of 1", "test": "testing batch 1 of 1"}[part]
        files[part] = pickle_of_python_2(
            {
                "filenames": names,
                "batch_label": batch_label,
                "fine_labels": labels,
                "coarse_labels": [label // 5 for label in labels],
                "data": planes_of("cifar100", part),
            }
        )
    coarse = [f"coarse_{number}" for number in range(20)]
    files["meta"] = pickle_of_python_2({"fine_label_names": NAMES100, "coarse_label_names": coarse})
    return pack(folder / "cifar-100-python.tar.gz", "cifar-100-python", files)


def pack(file: Path, top: str, files: dict[str, bytes]) -> Archive:
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return Archive(file, sum_of(file.read_bytes()), {k: sum_of(v) for k, v in files.items()})


def sum_of(content: bytes) -> str:
    return md5(content, usedforsecurity=False).hexdigest()
