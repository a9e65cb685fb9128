"""The demo folder, drawn on all cores; it appears complete or not at all."""

import json
from collections.abc import Callable
from pathlib import Path

from neither.data.workers import parallel_map
from neither.demo.drawing import CLASSES, UNSEEN, draw_image
from neither.runtime.errors import OutputError
from neither.runtime.files import output_folder

VERSION = 1  # raise it whenever a change alters images

_Item = tuple[Path, int, str, str, int]  # folder, seed, split, label, index


def draw_demo(
    output_dir: Path,
    num_train: int = 1000,
    num_val: int = 200,
    num_test: int = 200,
    num_unseen: int = 100,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> None:
    """Write images of dogs, humans and neither; do nothing if they exist already.

    The same seed writes the same bytes; other counts add or drop images and change none.

    Args:
        output_dir: Gets `{train,val,test}/{dog,human,neither}/`, `unseen/<kind>/` and `demo.json`.
        num_train: Images in each class of the train split, 0 or more.
        num_val: The same for val.
        num_test: The same for test.
        num_unseen: Images of each kind that is in no split.
        seed: Another seed draws other images.
        report: Called with the numbers of images drawn and of all, now and then.

    Raises:
        OutputError: if `output_dir` exists and holds anything else, or cannot be written.
    """
    counts = {"train": num_train, "val": num_val, "test": num_test, "unseen": num_unseen}
    record = {"version": VERSION, "seed": seed, **{f"num_{k}": n for k, n in counts.items()}}
    is_empty = output_dir.is_dir() and not any(output_dir.iterdir())
    if (output_dir.exists() and not is_empty) or output_dir.is_symlink():
        if _read_record(output_dir) == record:
            return
        raise OutputError(
            f"{output_dir}: exists already and holds something else than this demo (seed {seed}, "
            f"{num_train} train images a class). Name another folder or remove this one."
        )
    with output_folder(output_dir, "demo.json", record) as partial:
        _fill_folder(partial, counts, seed, report)


def _fill_folder(
    partial: Path, counts: dict[str, int], seed: int, report: Callable[[int, int], None] | None
) -> None:
    items: list[_Item] = []
    for split, count in counts.items():
        for label in UNSEEN if split == "unseen" else CLASSES:
            (partial / split / label).mkdir(parents=True)
            items += [(partial, seed, split, label, index) for index in range(count)]
    for done, _ in enumerate(parallel_map(_write_image, items), start=1):
        if report and (done % 50 == 0 or done == len(items)):
            report(done, len(items))


def _write_image(item: _Item) -> None:
    folder, seed, split, label, index = item
    content, suffix = draw_image(seed, split, label, index)
    (folder / split / label / f"{index:04d}{suffix}").write_bytes(content)


def _read_record(folder: Path) -> object:
    try:
        return json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
