"""A folder that is complete as soon as its record lies in it.

It is filled under a hidden name beside its own and renamed at the end, so a stop, an error or a
full disk leaves nothing that looks like it. The record tells which command made it.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from neither.errors import OutputError
from neither.files import make_folder


def is_finished(folder: Path, record_name: str, made_of: Mapping[str, object]) -> bool:
    """Tell whether a folder lies there already, made of the same.

    Args:
        folder: the folder.
        record_name: of the file in it that tells what it was made of.
        made_of: what has to stand in that file; more may stand there.

    Raises:
        OutputError: if the folder holds anything else.
    """
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if not folder.is_symlink() and (is_empty or not folder.exists()):
        return False
    try:
        record = json.loads((folder / record_name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if isinstance(record, dict) and made_of.items() <= record.items():
        return True
    raise OutputError(
        f"{folder}: exists already and holds something else than this command makes. Name another "
        "folder or remove this one"
    )


@contextmanager
def finishing(folder: Path, record_name: str, record: Mapping[str, object]) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `folder` when the block ends well.

    Raises:
        OutputError: if something cannot be read or written; nothing is left then.
    """
    target = Path(os.path.abspath(folder))  # noqa: PTH100 - "." has no name to put another beside
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    make_folder(target.parent)
    try:
        partial.mkdir()
        yield partial
        text = json.dumps(record, indent=2) + "\n"
        (partial / record_name).write_text(text, encoding="utf-8")
        if target.is_dir() and not any(target.iterdir()):
            # The user's shell may stand in it, and would be left in a folder that is gone.
            for path in sorted(partial.iterdir(), key=lambda path: path.name == record_name):
                path.rename(target / path.name)
            partial.rmdir()
        else:
            partial.rename(target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"{error.filename or folder}: {error.strerror or error}. Nothing was made: mend this, "
            "make room or name another folder"
        ) from error
