"""The bytes of a checkpoint file: torch's archive, and a seal that vouches for each of them.

The seal comes last, so that `torch.load` of other programs still reads the file. It finds damage;
it is no signature: who can write the file can seal it. What protects the reader from a hostile
archive is that only plain values are ever made of it, and that it cannot grow when it is read.
"""

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from neither import files
from neither.errors import CheckpointError, OutputError

_SEAL = struct.Struct("<8sQ32s")  # what this is, the length of the archive, its SHA-256
_MARK = b"\nneither"
_BEGIN, _END, _END_BYTES = b"PK\3\4", b"PK\5\6", 22  # of a zip file, which torch's format is
_PIECE_BYTES = 2**20
_MAX_VALUES_BYTES = 2**23  # of all that is no tensor; a network of a thousand layers has 0.6 MB


def write_archive(path: Path, content: dict[str, Any]) -> None:
    """Write plain values and tensors, whole or not at all.

    Raises:
        OutputError: if the disk is full or the folder cannot be written; an old file stays as it
            was.
    """
    # Through memory: torch's own writer leaves a partial file and no errno on a full disk.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    archive = buffer.getbuffer()
    try:
        with files.replacing(path) as file:
            file.write(archive)
            file.write(seal_of(archive))
    except OSError as error:
        raise OutputError(
            f"{path}: {len(archive) / 1e6:.2g} MB cannot be saved here: {error.strerror or error}. "
            "When this is mended, the same command goes on from what was saved before"
        ) from error


def seal_of(archive: bytes | memoryview) -> bytes:
    """Return what vouches for these bytes."""
    return _SEAL.pack(_MARK, len(archive), hashlib.sha256(archive).digest())


def read_archive(path: Path) -> tuple[dict[str, Any], bool]:
    """Read what `write_archive` wrote, and say whether the file bears a seal.

    Nothing of a sealed archive is parsed before the seal is compared. The tensors are on the CPU.

    Raises:
        CheckpointError: if the file is damaged, hostile, or something else.
    """
    try:
        with path.open("rb") as file:  # one file throughout, though another may take its place
            size = os.fstat(file.fileno()).st_size
            length = _check_seal(file, size)
            if length is None:
                _check_end(file, size)
            _check_parts(file, size, is_sealed=length is not None)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise _Unusable("not a checkpoint of this project")
        for name, tensor in tensors_in(content):
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise _Unusable(f"{name} claims more numbers than the file holds")
    except _Unusable as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # damage shows as any of a dozen kinds
        raise CheckpointError(
            f"{path}: this checkpoint cannot be read; it is damaged or not one of ours"
        ) from error
    return content, length is not None


class _Unusable(Exception):  # noqa: N818 - only on its way to a CheckpointError
    """Says in a few words what is wrong with a file."""


def tensors_in(content: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of nested mappings and sequences, each with its dotted name."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from tensors_in(value, f"{name}.{key}" if name else str(key))


def _check_seal(file: BinaryIO, size: int) -> int | None:
    """Return the length of the archive before a seal, None if there is no seal."""
    file.seek(max(0, size - _SEAL.size))
    seal = file.read(_SEAL.size)
    if len(seal) < _SEAL.size or not seal.startswith(_MARK):
        return None
    _, length, digest = _SEAL.unpack(seal)
    if length != size - _SEAL.size:
        raise _Unusable(f"damaged: {size - _SEAL.size:,} bytes instead of {length:,}")
    file.seek(0)
    found, left = hashlib.sha256(), length
    while left and (piece := file.read(min(left, _PIECE_BYTES))):
        found.update(piece)
        left -= len(piece)
    if found.digest() != digest:
        raise _Unusable("damaged: the checksum differs")
    return int(length)


def _check_end(file: BinaryIO, size: int) -> None:
    """Tell an archive that lost its end from what is no archive at all."""
    file.seek(0)
    if file.read(len(_BEGIN)) == _BEGIN:
        file.seek(max(0, size - _END_BYTES))
        if not file.read().startswith(_END):
            raise _Unusable(f"incomplete or damaged: {size:,} bytes are here, without their end")


def _check_parts(file: BinaryIO, size: int, is_sealed: bool) -> None:
    """Refuse what would take more memory than disk, before any of it is unpacked."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise _Unusable("compressed, which no checkpoint of this project is")
        if sum(part.file_size for part in parts) > size:
            raise _Unusable("an archive that overlaps itself")
        if any(part.filename.endswith(".pkl") and part.file_size > _MAX_VALUES_BYTES
               for part in parts):  # fmt: skip
            raise _Unusable("an archive of too many values")
        if not is_sealed and (damaged := archive.testzip()):
            raise _Unusable(f"damaged: the checksum of {damaged} differs")
