"""TensorBoard's event files that earlier attempts of a run left behind."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

from neither import files

_NAMES = "events.out.tfevents.*"
_AROUND = 12, 4  # bytes before an event, its length first, and behind it; the others are checksums


def drop_from(folder: Path, step: int) -> None:
    """Take out what an attempt showed at a step or later, and then was cut off before it saved.

    `purge_step` makes TensorBoard skip it, but not every program that reads such files.

    Args:
        folder: of the files.
        step: the first to take out; 0 leaves nothing.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if a file is not one of TensorBoard's.
    """
    for path in sorted(folder.glob(_NAMES)):
        content = path.read_bytes()
        kept = b"".join(record for at, record in _records(content, path) if at < step)
        if not kept:
            path.unlink()
        elif kept != content:
            files.write_whole(path, kept)


def put_first(folder: Path) -> None:
    """Give event files of earlier attempts names that sort before those of this one.

    TensorBoard reads them by the time in the name, in whole seconds; an attempt in the same second,
    or one before the clock was set back, would come last and seem to be the newest.
    """
    before = sorted(folder.glob(_NAMES))
    if before and int(before[-1].name.split(".")[3]) >= int(time.time()):
        for number, path in enumerate(before):
            parts = path.name.split(".")
            path.rename(path.with_name(".".join([*parts[:3], f"{number:010}", *parts[4:]])))


def _records(content: bytes, path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the step and the bytes of each event; one that was cut off ends the file."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    start, (before, behind) = 0, _AROUND
    while len(content) - start >= before:
        end = start + before + struct.unpack_from("<Q", content, start)[0] + behind
        if end > len(content):
            return
        try:
            event = Event.FromString(content[start + before : end - behind])
        except DecodeError as error:
            raise ValueError(f"{path}: not a file of TensorBoard's") from error
        yield event.step, content[start:end]
        start = end
