"""The bytes of a checkpoint file: torch's archive, and a seal that vouches for each of them.

The seal comes last, so that `torch.load` of other programs still reads the file. It finds damage;
it is no signature: who can write the file can seal it. What protects the reader from a hostile
archive is that only plain values are ever made of it, and that it cannot grow when it is read.

Checkpoint files: all that is needed to classify an image, or to go on training.

A checkpoint holds plain values and tensors only, so reading one can run no code. It is written
whole or not at all, and every byte of it is vouched for.
"""

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from neither.config.schema import Model
from neither.data.preprocessing import DECODER_VERSION, Preprocessing
from neither.models.networks import FlipTTA, build_network
from neither.runtime import files
from neither.runtime.errors import CheckpointError, OutputError, UsageError

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
        with files.atomic_writer(path) as file:
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


SCHEMA_VERSION = 5
_UNSEALED = 4  # the same content without a seal; earlier ones were never released


_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Checkpoint:
    """A network and what its outputs mean.

    Attributes:
        classes: names in the order of the logits.
        reject_class: the class that means none of the others, if there is one.
        model: which network.
        preprocessing: from a file to the network's input.
        weights: the averaged weights, those to use.
        mirrored: whether logits are averaged over each image and its mirror image.
        temperature: what logits are divided by before softmax.
        threshold: the least probability of an accepted decision; None if none was fitted.
        shares: of each class among the training images.
        config: the whole config of the run, as in its `config.yaml`.
        epoch: full epochs trained.
        step: optimizer steps taken.
        metrics: on val, of these weights.
        training: what going on takes besides; None in a checkpoint that is only for use.
    """

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    reject_class: str | None
    model: Model
    preprocessing: Preprocessing
    weights: dict[str, Tensor]
    mirrored: bool
    temperature: Annotated[float, Field(ge=0.01, le=100)]
    threshold: _Share | None
    shares: tuple[_Share, ...]
    config: dict[str, Any]
    epoch: _Count
    step: _Count
    metrics: dict[str, float]
    training: dict[str, Any] | None = None

    def build(self) -> nn.Module:
        """Return the network with these weights, on the CPU, ready to evaluate.

        Raises:
            CheckpointError: if there is no network as the checkpoint names, or the weights do not
                fit it.
        """
        size = self.preprocessing.image_size
        try:
            network = build_network(self.model, len(self.classes), size, seed=None)
        except UsageError as error:  # of another version of torchvision, or forged
            raise CheckpointError(
                f"the network of this checkpoint cannot be built: {error}"
            ) from error
        network.to_empty(device="cpu")  # keeps the layout in memory
        load_weights(network, self.weights)
        if self.mirrored:
            network = FlipTTA(network)
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OutputError: if the disk is full or the folder cannot be written; an old file stays as it
            was.
    """
    write_archive(path, vars(checkpoint) | {
        "schema_version": SCHEMA_VERSION,
        "made_by": version("neither"),
        "model": checkpoint.model.model_dump(),
        "preprocessing": asdict(checkpoint.preprocessing),
    })  # fmt: skip


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: a checkpoint file, or the folder of a run, whose `best.pt` is meant.

    Raises:
        UsageError: if there is nothing of this name.
        CheckpointError: if the file is damaged or not a checkpoint of this project.
    """
    path = find_checkpoint(path)
    content, is_sealed = read_archive(path)
    _require_schema(path, content, is_sealed)
    try:
        checkpoint = _CHECKED.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CheckpointError(
            f"{path}: {'.'.join(map(str, first['loc']))} of this checkpoint is missing or wrong: "
            f"{first['msg']}"
        ) from error
    _require_meaning(path, checkpoint)
    _require_finite(path, checkpoint)
    return checkpoint


def _require_schema(path: Path, content: dict[str, Any], is_sealed: bool) -> None:
    """Take the schema out of the content, if it is one that can be read."""
    if "schema_version" not in content:
        raise CheckpointError(f"{path}: not a checkpoint of this project (no schema_version)")
    schema, made_by = content.pop("schema_version"), content.pop("made_by", None)
    if schema not in (_UNSEALED, SCHEMA_VERSION):
        maker = f"neither {made_by}" if made_by else "another version of neither"
        raise CheckpointError(
            f"{path}: made by {maker} with schema {schema}; this is {version('neither')}, which "
            f"reads schema {_UNSEALED} and {SCHEMA_VERSION}; install the version that made it"
        )
    if is_sealed != (schema == SCHEMA_VERSION):
        raise CheckpointError(f"{path}: incomplete or damaged: its seal is missing")


def _require_meaning(path: Path, checkpoint: Checkpoint) -> None:
    """Refuse values that are right one by one and do not go together."""
    classes, decoder = checkpoint.classes, checkpoint.preprocessing.decoder
    if (
        len(set(classes)) < len(classes)
        or checkpoint.reject_class not in (None, *classes)
        or len(checkpoint.shares) not in (0, len(classes))
    ):
        raise CheckpointError(f"{path}: the classes of this checkpoint contradict each other")
    if decoder != DECODER_VERSION:
        raise CheckpointError(
            f"{path}: trained on images of decoder {decoder}, but this version of "
            f"neither has {DECODER_VERSION}, which gives other pixels; install the one that made it"
        )


def _require_finite(path: Path, checkpoint: Checkpoint) -> None:
    """Refuse weights that would turn every image into the first class."""
    content = {"weights": checkpoint.weights, "training": checkpoint.training}
    for name, tensor in tensors_in(content):
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{path}: {name} holds negative variances")


_CHECKED = TypeAdapter(Checkpoint)


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path means: itself, or a run's `best.pt`.

    Raises:
        UsageError: if there is nothing.
        CheckpointError: if there is something else.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such run or checkpoint")
    if path.is_dir():
        best = path / "checkpoints" / "best.pt"
        if not best.is_file():
            raise CheckpointError(
                f"{path}: no checkpoints/best.pt here; is this the folder of a run?"
            )
        return best
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file")
    return path


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put weights into a network that has exactly these.

    Raises:
        CheckpointError: naming the first differences.
    """
    own = network.state_dict()
    differences = [
        f"{name}: {_shape(weights.get(name))} in the checkpoint, {_shape(own.get(name))} wanted"
        for name in sorted(own.keys() | weights.keys())
        if _shape(weights.get(name)) != _shape(own.get(name))
    ]
    if differences:
        raise CheckpointError("the weights fit another network: " + "; ".join(differences[:3]))
    # Not by load_state_dict: some networks of torchvision want more of a file than its tensors.
    for name, tensor in own.items():
        tensor.copy_(weights[name])


def _shape(weights: Tensor | None) -> str:
    return "nothing" if weights is None else str(tuple(weights.shape))
