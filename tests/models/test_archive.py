"""Every damage is found before anything is parsed, and no file runs code or grows."""

import codecs
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from neither.models.checkpoint import (
    load_checkpoint,
    read_archive,
    seal_of,
    tensors_in,
    write_archive,
)
from neither.runtime.errors import CheckpointError

CONTENT = {"numbers": torch.arange(5.0), "nested": {"word": "dog", "list": [torch.ones(2, 3)]}}
GOLDEN = Path(__file__).parent / "golden" / "schema_5.pt"
SEAL_BYTES = 48


@pytest.fixture(scope="module")
def whole() -> bytes:
    return GOLDEN.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.pt"


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as refused:
        read_archive(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def is_refused(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        load_checkpoint(path)
    except CheckpointError:
        return True
    return False


def test_what_was_written_comes_back(path: Path) -> None:
    write_archive(path, CONTENT)
    content, is_sealed = read_archive(path)
    assert is_sealed
    assert torch.equal(content["numbers"], torch.arange(5.0))
    assert content["nested"]["word"] == "dog"
    assert torch.equal(content["nested"]["list"][0], torch.ones(2, 3))


def test_other_programs_can_read_the_file_too(path: Path) -> None:
    write_archive(path, CONTENT)
    assert torch.equal(torch.load(path, weights_only=True)["numbers"], torch.arange(5.0))


@pytest.mark.fault("K01")
def test_tensors_are_named_by_their_places() -> None:
    assert [name for name, _ in tensors_in(CONTENT)] == ["numbers", "nested.list.0"]


@pytest.mark.fault("K03")
def test_a_file_cut_short_is_refused(path: Path, whole: bytes) -> None:
    """Any but the last kilobyte's are a sample; `benchmarks/torture.py` tries each."""
    for length in (*range(0, len(whole) - 1000, 17), *range(len(whole) - 1000, len(whole))):
        assert is_refused(path, whole[:length]), length


@pytest.mark.fault("K02")
def test_bytes_too_many_are_refused(path: Path, whole: bytes) -> None:
    for number in (1, 2, SEAL_BYTES, 1000, 100_000):
        assert is_refused(path, whole + bytes(number)), number
        assert is_refused(path, bytes(number) + whole), number
    assert is_refused(path, whole + whole)


def test_a_flipped_bit_is_refused(path: Path, whole: bytes) -> None:
    """Likewise."""
    for place in (*range(0, len(whole) - 1000, 17), *range(len(whole) - 1000, len(whole))):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        assert is_refused(path, bytes(flipped)), place


def test_a_hole_of_zeros_is_refused(path: Path, whole: bytes) -> None:
    for start in range(0, len(whole), 512):
        holed = whole[:start] + bytes(4096) + whole[start + 4096 :]
        assert is_refused(path, holed[: len(whole)]), start


@pytest.mark.fault("K01", "K02", "K03", "K06")
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda _: b"", "cannot be read; it is damaged or not one of ours"),
        (lambda _: b"not a checkpoint\n" * 100, "damaged or not one of ours"),
        (lambda _: b"<!DOCTYPE html><html></html>", "damaged or not one of ours"),
        (lambda whole: whole[: len(whole) // 2], r"incomplete or damaged: [\d,]+ bytes are here"),
        (lambda whole: whole[1:], r"damaged: [\d,]+ bytes instead of [\d,]+"),
        (lambda whole: whole[:200] + b"x" + whole[201:], "damaged: the checksum differs"),
    ],
    ids=["empty", "text", "a page", "half", "short of a byte", "a byte changed"],
)
def test_the_message_says_what_is_wrong(
    damage: Callable[[bytes], bytes], match: str, path: Path, whole: bytes
) -> None:
    path.write_bytes(damage(whole))
    assert_refused(path, match)


def test_a_sealed_checkpoint_that_lost_its_seal_is_refused(path: Path) -> None:
    """Not taken for one of the old schema, which had none."""
    path.write_bytes(GOLDEN.read_bytes()[:-SEAL_BYTES])
    assert not read_archive(path)[1]
    with pytest.raises(CheckpointError, match="its seal is missing"):
        load_checkpoint(path)


def test_an_old_checkpoint_without_seal_is_checked_too(path: Path) -> None:
    whole = GOLDEN.with_name("schema_4.pt").read_bytes()
    path.write_bytes(whole)
    weights = load_checkpoint(path).weights["head.weight"]
    weight = whole.index(weights.numpy().tobytes())
    path.write_bytes(whole[:weight] + bytes(4) + whole[weight + 4 :])
    assert_refused(path, "damaged: the checksum of .* differs")
    for number in (1, 1000):
        path.write_bytes(whole + bytes(number))
        assert_refused(path, "incomplete or damaged")
        path.write_bytes(whole[:-number])
        assert_refused(path, "damaged")


@pytest.mark.fault("K07")
@pytest.mark.parametrize(
    "content", [{"weight": torch.ones(2)}, torch.ones(2), [1, 2]], ids=["dict", "tensor", "list"]
)
def test_a_file_of_another_program_is_refused(content: object, path: Path) -> None:
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of this project"):
        load_checkpoint(path)


def write_safetensors(path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def write_torchscript(path: Path) -> None:
    """As `torch.jit.save` does: an archive whose code must never run."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
        archive.writestr("model/code/__torch__.py", "import os")
        archive.writestr("model/constants.pkl", pickle.dumps(()))
        archive.writestr("model/version", "3")


@pytest.mark.fault("K07")
@pytest.mark.parametrize("write", [write_safetensors, write_torchscript])
def test_files_of_other_formats_are_refused(write: Callable[[Path], None], path: Path) -> None:
    write(path)
    with pytest.raises(CheckpointError, match=r"not one of ours|not a checkpoint"):
        load_checkpoint(path)


class Attack:
    """What calls a function with arguments as soon as it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


ATTACKS: dict[str, Callable[[Path], object]] = {
    "os.system": lambda canary: Attack(os.system, f"touch '{canary}'"),
    "eval": lambda canary: Attack(eval, f"open({str(canary)!r}, 'w').close()"),
    "nested": lambda canary: (
        {"schema_version": 5, "config": {"a": [Attack(Path.touch, Path(canary))]}}
    ),
    "codecs": lambda canary: Attack(codecs.open, str(canary), "w"),
}


@pytest.mark.parametrize("write", [torch.save, pickle.dump], ids=["torch", "pickle"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_file_runs_no_code(
    attack: Callable[[Path], object], write: Callable[..., None], tmp_path: Path
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    with path.open("wb") as file:
        write(attack(canary), file)
    assert_refused(path, "cannot be read|incomplete")
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore")
def test_the_attacks_above_would_work(tmp_path: Path) -> None:
    """The negative twin: read carelessly, each makes its canary."""
    for name, attack in ATTACKS.items():
        canary, path = tmp_path / f"canary of {name}", tmp_path / "evil.pt"
        torch.save(attack(canary), path)
        torch.load(path, weights_only=False)
        assert canary.exists(), name


def seal(path: Path) -> None:
    """Do as an attacker who knows the format."""
    path.write_bytes(path.read_bytes() + seal_of(path.read_bytes()))


@pytest.mark.fault("K04")
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_seal_makes_no_attack_welcome(
    attack: Callable[[Path], object], path: Path, tmp_path: Path
) -> None:
    torch.save(attack(tmp_path / "canary"), path)
    seal(path)
    assert_refused(path, "cannot be read")
    assert not (tmp_path / "canary").exists()


def bomb(path: Path) -> None:
    """An archive whose zeros take a thousandth of their size on disk."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(50_000_000)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(path, "w") as small:
        for part in plain.namelist():
            small.writestr(part, plain.read(part), zipfile.ZIP_DEFLATED)


def overlap(path: Path) -> None:
    """An archive whose directory names one part a thousand times."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", bytes(2**20))
        archive.filelist += [archive.filelist[1]] * 1000


def many_keys(path: Path) -> None:
    torch.save({str(number): number for number in range(1_000_000)}, path)


def endless_view(path: Path) -> None:
    """A tensor of 10^11 numbers, each of them the same four bytes."""
    torch.save({"weight": torch.zeros(1).expand(100_000_000_000)}, path)


MEASURED = """
import resource, sys, time
from pathlib import Path
from neither.errors import CheckpointError
from neither.model.archive import read_archive
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
try:
    read_archive(Path(sys.argv[1]))
except CheckpointError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, file=sys.stderr)
"""


@pytest.mark.fault("K05")
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize(
    ("write", "match"),
    [(bomb, "compressed"), (overlap, "overlaps itself"), (many_keys, "too many values"),
     (endless_view, "claims more numbers than the file holds")],
)  # fmt: skip
def test_a_file_that_would_grow_is_refused_in_little_memory(
    write: Callable[[Path], None], match: str, is_sealed: bool, path: Path
) -> None:
    write(path)
    if is_sealed:
        seal(path)
    done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True,
                          timeout=60, check=True)  # fmt: skip
    assert match in done.stdout
    assert int(done.stderr) < 200_000 if sys.platform == "linux" else True  # kilobytes
