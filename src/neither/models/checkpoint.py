"""Checkpoint files: everything needed to classify an image, or to resume training.

A file is torch's zip archive followed by a checksum trailer, which other programs ignore. The
checksum detects damage; it is not a signature. Reading a hostile file is safe because only plain
values and tensors are unpickled, and because the archive must not need more memory than disk.
"""

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from neither.config.schema import Model, translate_old
from neither.data.preprocessing import READABLE_DECODERS, Preprocessing
from neither.models.networks import BackboneNetwork, FlipTTA, build_network
from neither.runtime import files
from neither.runtime.errors import CheckpointError, OutputError, UsageError

SCHEMA_VERSION = 7
_WITHOUT_TRAILER = 4  # the only schema without one; earlier schemas were never released
_V1_SCHEMAS = (4, 5)
_WITH_ONE_THRESHOLD = 6  # and all before it
_V1_FIELDS = {"mirrored": "flip_tta", "shares": "class_frequencies"}

_TRAILER = struct.Struct("<8sQ32s")  # magic bytes, length of the archive, its SHA-256
_MAGIC = b"\nneither"
_ZIP_END, _ZIP_END_BYTES = b"PK\5\6", 22
_CHUNK_BYTES = 2**20
_MAX_PICKLE_BYTES = 2**23  # everything but tensors; a network of a thousand layers has 0.6 MB

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]
CalibratedOn = Literal["val", "left-out sources", "cross-validation"]


@dataclass(frozen=True)
class DecisionRule:
    """Which predictions are accepted: thresholds of probabilities, and what is known of them.

    A reject class has a threshold of its own: it is a wrong answer of another class that hurts.
    """

    target_precision: _Fraction = 1.0  # the precision that each threshold was chosen for
    # smallest probability to accept of a class that is not the reject class; None accepts every
    # such prediction, as in older files if no threshold reaches the target
    threshold: _Fraction | None = None
    # likewise for the reject class; None too if there is none
    reject_threshold: _Fraction | None = None
    is_certified: bool = False  # whether the thresholds keep the target with 90 % confidence each
    # how many more predictions of a class that is not the reject class, all correct, would certify
    # the first threshold; 0 if it is certified, or if that is unknown
    num_lacking: _Count = 0
    num_reject_lacking: _Count = 0  # likewise for the second

    def to_json(self) -> dict[str, Any]:
        """Return what `metrics.json` and exported files say; keys that do not apply are absent."""
        thresholds = {"threshold": self.threshold, "reject_threshold": self.reject_threshold}
        lacking = {"known": self.num_lacking, "reject": self.num_reject_lacking}
        lacking = {name: num for name, num in lacking.items() if num}
        return {name: value for name, value in thresholds.items() if value is not None} | {
            "certified": self.is_certified,
            **({"num_lacking": lacking} if lacking else {}),
        }


@dataclass(frozen=True)
class Checkpoint:
    """A network and the meaning of its outputs."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    classes: Annotated[tuple[str, ...], Field(min_length=1)]  # names in the order of the logits
    reject_class: str | None  # the class that means "none of the others", if there is one
    model: Model
    preprocessing: Preprocessing  # from a file to the network's input
    weights: dict[str, Tensor]  # state dict of the EMA model, which is the one to use
    flip_tta: bool  # whether logits are averaged over each image and its horizontal flip
    temperature: Annotated[float, Field(ge=0.01, le=100)]  # divisor of the logits before softmax
    decision_rule: DecisionRule  # which predictions are accepted
    calibrated_on: CalibratedOn  # the images that temperature and decision rule were fitted to
    # fraction of the training images in each class; empty if unknown
    class_frequencies: tuple[_Fraction, ...]
    source: str  # folder or manifest of the training run, as its config names it
    aliases: dict[str, str]  # class of each folder that has another name than its class
    config: dict[str, Any]  # the resolved config of the run, as in its `config.yaml`
    epoch: _Count  # number of complete epochs
    step: _Count  # number of optimizer steps
    metrics: dict[str, float]  # of these weights on val
    # what resuming needs besides; None in a checkpoint that is only for inference
    training: dict[str, Any] | None = None

    @property
    def corrections(self) -> Path | None:
        """The answers of a review that the training run followed, if it did."""
        data = self.config.get("data")
        path = data.get("corrections") if isinstance(data, dict) else None
        return Path(path).expanduser() if isinstance(path, str) else None

    def build(self) -> nn.Module:
        """Return the network with these weights, on the CPU, in evaluation mode.

        Raises:
            CheckpointError: if the architecture is unknown or the weights do not fit it.
        """
        size = self.preprocessing.image_size
        try:
            network = build_network(self.model, len(self.classes), size, seed=None)
        except UsageError as error:  # another version of torchvision, or a forged file
            raise CheckpointError(f"this checkpoint's network cannot be built: {error}") from error
        # As `to_empty(device="cpu")` does, which imports half a second of symbolic mathematics.
        network._apply(  # type: ignore[no-untyped-call]
            lambda each: (
                torch.empty_strided(each.shape, each.stride(), dtype=each.dtype)
                if each.is_meta
                else each
            )
        )
        load_weights(network, self.weights)
        is_head = self.model.is_frozen and isinstance(network, BackboneNetwork)
        if self.flip_tta and is_head:
            # The head is linear: on mean features it gives the mean logits, as it was fitted.
            network.backbone = FlipTTA(network.get_submodule("backbone"))
        elif self.flip_tta:
            network = FlipTTA(network)
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Raises:
        OutputError: if the disk is full or the folder not writable; an old file stays unchanged.
    """
    write_archive(path, vars(checkpoint) | {
        "schema_version": SCHEMA_VERSION,
        "made_by": version("neither"),
        "model": checkpoint.model.model_dump(),
        "preprocessing": asdict(checkpoint.preprocessing),
        "decision_rule": asdict(checkpoint.decision_rule),
    })  # fmt: skip


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this version or of an earlier one, as `find_checkpoint` finds it.

    Raises:
        UsageError: if the path does not exist.
        CheckpointError: if the file is damaged or not a checkpoint of this project.
    """
    path = find_checkpoint(path)
    content, has_trailer = read_archive(path)
    try:
        return _parse(content, has_trailer)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path means: the file itself, or a run's `best.pt`.

    Raises:
        UsageError: if the path does not exist.
        CheckpointError: if it is neither a file nor the folder of a run.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such run or checkpoint")
    if path.is_dir():
        best = path / "checkpoints" / "best.pt"
        if not best.is_file():
            raise CheckpointError(f"{path}: no checkpoints/best.pt; is this the folder of a run?")
        return best
    if not path.is_file():
        raise CheckpointError(f"{path}: not a file")
    return path


def find_run(path: Path) -> Path:
    """Return the folder of the run that a path means, or that a checkpoint is of; as above.

    That of a checkpoint outside a run is the one that it is in.
    """
    folder = find_checkpoint(path).parent
    return folder.parent if folder.name == "checkpoints" else folder


def is_checkpoint(path: Path) -> bool:
    """Return whether a file is a checkpoint of this project, perhaps a damaged one."""
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if pickles:
            with archive.open(pickles[0]) as file:
                return b"schema_version" in file.read(_MAX_PICKLE_BYTES)
    return False


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into a network that has exactly these names and shapes.

    Raises:
        CheckpointError: naming the first differences; the network is unchanged.
    """
    own = network.state_dict()
    differences = [
        f"{name}: {_shape(weights.get(name))} in the checkpoint, {_shape(own.get(name))} wanted"
        for name in sorted(own.keys() | weights.keys())
        if _shape(weights.get(name)) != _shape(own.get(name))
    ]
    if differences:
        raise CheckpointError("the weights fit another network: " + "; ".join(differences[:3]))
    # Not by load_state_dict: some networks of torchvision expect more in it than their tensors.
    for name, tensor in own.items():
        tensor.copy_(weights[name])


def _shape(weights: Tensor | None) -> str:
    return "nothing" if weights is None else str(tuple(weights.shape))


def check_values(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Check that named tensors are finite, and running variances not negative.

    Raises:
        CheckpointError: such weights would predict the first class for every image.
    """
    for name, tensor in tensors:
        if not tensor.isfinite().all():
            raise CheckpointError(f"{name} holds numbers that are not finite")
        if name.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{name} holds negative variances")


def _parse(content: dict[str, Any], has_trailer: bool) -> Checkpoint:
    if "schema_version" not in content:
        raise CheckpointError("not a checkpoint of this project (no schema_version)")
    schema, made_by = content.pop("schema_version"), content.pop("made_by", None)
    if schema not in range(_V1_SCHEMAS[0], SCHEMA_VERSION + 1):
        maker = f"neither {made_by}" if made_by else "another version of neither"
        raise CheckpointError(
            f"made by {maker} with schema {schema}; this is {version('neither')}, which reads "
            f"schemas {_V1_SCHEMAS[0]} to {SCHEMA_VERSION}; install the version that made it"
        )
    if has_trailer != (schema != _WITHOUT_TRAILER):
        raise CheckpointError("incomplete or damaged: its checksum is missing")
    try:
        checkpoint = TypeAdapter(Checkpoint).validate_python(_translate(content, schema))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        what = f"{'.'.join(map(str, first['loc']))} of this checkpoint is missing or wrong"
        raise CheckpointError(f"{what}: {first['msg']}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"config of this checkpoint is missing or wrong: {error}") from error
    classes, decoder = checkpoint.classes, checkpoint.preprocessing.decoder
    if (
        len(set(classes)) < len(classes)
        or checkpoint.reject_class not in (None, *classes)
        or len(checkpoint.class_frequencies) not in (0, len(classes))
    ):
        raise CheckpointError("the classes of this checkpoint contradict each other")
    if decoder not in READABLE_DECODERS:
        raise CheckpointError(
            f"trained on images of decoder {decoder}, but this version of neither has "
            f"{READABLE_DECODERS[-1]}, which gives other pixels; install the version that made it"
        )
    check_values(named_tensors({"weights": checkpoint.weights, "training": checkpoint.training}))
    return checkpoint


def _translate(content: dict[str, Any], schema: int) -> dict[str, Any]:
    """Bring the content of an earlier schema to the present one."""
    if schema in _V1_SCHEMAS:  # other names, and what only its config had
        content = {_V1_FIELDS.get(name, name): value for name, value in content.items()}
        config = translate_old(content["config"])
        content |= {
            "target_precision": config["decision"]["target_precision"],
            "source": config["data"]["root"] or config["data"]["manifest"],
            "aliases": config["data"]["aliases"],
            "config": config,
        }
    if schema <= _WITH_ONE_THRESHOLD:  # which serves the reject class too
        threshold, target = content.pop("threshold"), content.pop("target_precision")
        rule = {"target_precision": target, "threshold": threshold}
        if content.get("reject_class") is not None:
            rule["reject_threshold"] = threshold
        content |= {"decision_rule": rule, "calibrated_on": "val"}
    return content | translate_old({"model": content.get("model")})


def write_archive(path: Path, content: dict[str, Any]) -> None:
    """Write plain values and tensors with a checksum trailer, atomically."""
    # Through memory: torch's own writer leaves a partial file and no errno on a full disk.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    archive = buffer.getbuffer()
    try:
        with files.atomic_writer(path) as file:
            file.write(archive)
            file.write(checksum_trailer(archive))
    except OSError as error:
        raise OutputError(
            f"{path}: {len(archive) / 1e6:.2g} MB cannot be saved here: {error.strerror or error}. "
            "After correcting this, the same command resumes from the last checkpoint"
        ) from error


def checksum_trailer(archive: bytes | memoryview) -> bytes:
    """Return the bytes that follow an archive in a checkpoint file."""
    return _TRAILER.pack(_MAGIC, len(archive), hashlib.sha256(archive).digest())


def read_archive(path: Path) -> tuple[dict[str, Any], bool]:
    """Read an archive to the CPU; nothing is parsed before the checksum has been compared.

    Returns:
        The content, and whether the file has a trailer.

    Raises:
        CheckpointError: if the file is damaged, hostile, or of another format.
    """
    try:
        with path.open("rb") as file:  # opened once, as another process may replace the path
            size = os.fstat(file.fileno()).st_size
            has_trailer = _check_trailer(file, size)
            _check_zip(file, size, check_crc=not has_trailer)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise CheckpointError("not a checkpoint of this project")
        for name, tensor in named_tensors(content):
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise CheckpointError(f"{name} claims more numbers than the file holds")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # damage raises any of a dozen types
        raise CheckpointError(
            f"{path}: this checkpoint cannot be read: incomplete, damaged or not one of ours"
        ) from error
    return content, has_trailer


def named_tensors(content: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of nested mappings and sequences, each with its dotted name."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))


def _check_trailer(file: BinaryIO, size: int) -> bool:
    """Return whether there is a checksum trailer; raise `CheckpointError` if it does not match."""
    file.seek(max(0, size - _TRAILER.size))
    trailer = file.read(_TRAILER.size)
    if len(trailer) < _TRAILER.size or not trailer.startswith(_MAGIC):
        return False
    _, length, expected = _TRAILER.unpack(trailer)
    if length != size - _TRAILER.size:
        raise CheckpointError(f"damaged: {size - _TRAILER.size:,} bytes instead of {length:,}")
    file.seek(0)
    digest = hashlib.sha256()
    for start in range(0, length, _CHUNK_BYTES):
        digest.update(file.read(min(_CHUNK_BYTES, length - start)))
    if digest.digest() != expected:
        raise CheckpointError("damaged: the checksum differs")
    return True


def _check_zip(file: BinaryIO, size: int, check_crc: bool) -> None:
    """Raise `CheckpointError` if the archive would need more memory than disk when unpacked."""
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError("compressed, unlike every checkpoint of this project")
        if sum(member.file_size for member in members) > size:
            raise CheckpointError("an archive that overlaps itself")
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        if any(member.file_size > _MAX_PICKLE_BYTES for member in pickles):
            raise CheckpointError("an archive of too many values")
        if check_crc and (damaged := archive.testzip()):
            raise CheckpointError(f"damaged: the checksum of {damaged} differs")
    file.seek(-_ZIP_END_BYTES, os.SEEK_END)
    if check_crc and not file.read().startswith(_ZIP_END):
        raise CheckpointError("damaged: bytes follow the archive")
