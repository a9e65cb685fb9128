"""The demo folder, drawn on all cores; it appears complete or not at all."""

from collections.abc import Callable
from pathlib import Path

from neither.data.workers import parallel_map
from neither.demo.drawing import CLASSES, UNSEEN, draw_image
from neither.runtime.files import is_complete, output_folder

VERSION = 2  # raise it whenever a change alters images

_Item = tuple[Path, int, str, str, int]  # folder, seed, split, label, index


def draw_demo(
    output_dir: Path,
    num_train: int = 1000,
    num_val: int = 400,
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
    if is_complete(output_dir, "demo.json", record):
        return
    with output_folder(output_dir, "demo.json", record) as partial:
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
