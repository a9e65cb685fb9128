"""The rows of the fault matrix on checkpoints; tests/models/test_checkpoint.py has more of each."""

import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calls import Call, Done
from faults.tiny import assert_refused, read_probabilities
from images import draw_shape, make_splits
from neither.models.checkpoint import SCHEMA_VERSION, load_checkpoint, read_archive, write_archive
from neither.runtime import files

GOLDEN = Path(__file__).parent.parent / "models" / "golden"


def evaluate(call: Call, home: Path, model: Path | None = None) -> Done:
    return call("evaluate", model or home / "run", home / "images", "--output-dir", home / "out")


def predict(call: Call, home: Path, model: Path | None = None) -> dict[str, tuple[str, ...]]:
    done = evaluate(call, home, model)
    assert done.code == 0, done.err
    return read_probabilities(home / "out")


def resume(call: Call, home: Path, *more: str) -> Done:
    return call("train", home / "tiny.yaml", *more, "--output-dir", home / "run")


def write_changed(path: Path, **values: Any) -> None:  # noqa: ANN401
    content = read_archive(path)[0] | values
    write_archive(path, {key: value for key, value in content.items() if value is not ...})


def write_weights(path: Path, value: float) -> None:
    weights = read_archive(path)[0]["weights"]
    write_changed(path, weights={name: torch.full_like(weights[name], value) for name in weights})


def write_compressed(path: Path) -> None:
    with zipfile.ZipFile(path) as plain:
        parts = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as small:
        for name, content in parts.items():
            small.writestr(name, content)


UNUSABLE: list[tuple[str, Callable[[Path], object]]] = [
    ("K01", lambda path: path.write_bytes(path.read_bytes()[:2000])),
    ("K02", lambda path: path.write_bytes(path.read_bytes().replace(b"PK", b"QK", 1))),
    ("K03", lambda path: path.write_bytes(path.read_bytes() + b"\0")),
    ("K05", write_compressed),
    ("K06", lambda path: path.write_bytes(b"<html>404</html>")),
    ("K07", lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path)),
    ("K08", lambda path: write_changed(path, model={"name": "small_cnn", "width": 8})),
    ("K11", lambda path: write_changed(path, schema_version=99)),
    ("K12", lambda path: write_weights(path, torch.nan)),
    ("E11", lambda path: write_weights(path, 3e38)),  # finite, but logits are not
    ("K13", lambda path: write_changed(path, temperature=...)),
]


@pytest.mark.fault("K01", "K02", "K03", "K05", "K06", "K07", "K08", "K11", "K12", "E11", "K13")
@pytest.mark.parametrize(("row", "spoil"), UNUSABLE, ids=[row for row, _ in UNUSABLE])
def test_an_unusable_checkpoint_exits_5_without_results(
    row: str, spoil: Callable[[Path], object], home: Path, call: Call
) -> None:
    for name in ("best.pt", "last.pt", "previous.pt"):
        spoil(home / "run" / "checkpoints" / name)
    assert_refused(evaluate(call, home), 5)
    assert not (home / "out" / "predictions.csv").exists()
    if row in ("K01", "K02", "K03", "K06"):
        assert_refused(resume(call, home), 5, "last.pt", "--fresh")


@pytest.mark.fault("K04")
def test_a_checkpoint_runs_no_code(home: Path, call: Call) -> None:
    canary = home / "canary"

    class Attack:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (canary,)

    torch.save({"schema_version": SCHEMA_VERSION, "weights": Attack()}, home / "evil.pt")
    assert_refused(evaluate(call, home, home / "evil.pt"), 5, "evil.pt")
    assert not canary.exists()
    torch.load(home / "evil.pt", weights_only=False)
    assert canary.exists()  # the twin: read carelessly, it would have been made


@pytest.mark.fault("K09", "E15")
def test_class_names_come_from_the_checkpoint_and_never_from_the_order_of_folders(
    home: Path, call: Call
) -> None:
    before = predict(call, home)
    best = home / "run" / "checkpoints" / "best.pt"
    weights = read_archive(best)[0]["weights"]
    write_changed(best, classes=("neither", "human", "dog"),
                  weights={name: tensor.flip(0) for name, tensor in weights.items()})  # fmt: skip
    assert predict(call, home) == before
    write_changed(best, classes=("Neither", "human", "dog"), reject_class=None)
    done = evaluate(call, home)
    assert done.code == 0, done.err
    assert f"{home / 'images' / 'test' / 'neither'}: " in done.err


@pytest.mark.fault("K10", "E14")
def test_checkpoints_of_older_schemas_give_the_same_predictions(home: Path, call: Call) -> None:
    paths = [Path(shutil.copy(path, home)) for path in sorted(GOLDEN.glob("schema_*.pt"))]
    assert len(paths) == SCHEMA_VERSION - 3
    predictions = [predict(call, home, path) for path in paths]
    assert all(each == predictions[0] for each in predictions)


@pytest.mark.fault("K16")
def test_a_finished_run_exits_0_and_stays_as_it_is(home: Path, call: Call) -> None:
    last = home / "run" / "checkpoints" / "last.pt"
    before = last.read_bytes()
    done = resume(call, home)
    assert done.code == 0
    assert str(home / "run") in done.out
    assert last.read_bytes() == before
    other = home / "other"
    make_splits(other)
    for number, path in enumerate(other.rglob("*.png")):  # the same images would be known
        draw_shape("dog", 900 + number).save(path)
    assert_refused(resume(call, home, f"data.root={other}"), 2, str(other))


@pytest.mark.fault("K17")
def test_a_reader_beside_a_writer_gets_one_whole_version(home: Path) -> None:
    last = home / "run" / "checkpoints" / "last.pt"
    content, _ = read_archive(last)
    write_archive(last, content | {"step": 0})
    done, seen = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            seen.append(load_checkpoint(last).step)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for step in range(100):
            files.keep_copy(last.with_name("previous.pt"), last)
            write_archive(last, content | {"step": step})
    finally:
        done.set()
        reader.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


@pytest.mark.fault("K18")
def test_a_link_is_read_through_and_never_written_through(home: Path, call: Call) -> None:
    best = home / "run" / "checkpoints" / "best.pt"
    elsewhere = home / "elsewhere.pt"
    best.replace(elsewhere)
    best.symlink_to(elsewhere)
    elsewhere.chmod(0o444)
    before = elsewhere.read_bytes()
    assert evaluate(call, home).code == 0
    assert resume(call, home, "--fresh").code == 0
    assert elsewhere.read_bytes() == before
    assert not (home / "run" / "checkpoints" / "best.pt").is_symlink()


@pytest.mark.fault("K19")
def test_optimizer_state_of_other_parameters_is_refused(home: Path, call: Call) -> None:
    last = home / "run" / "checkpoints" / "last.pt"
    content, _ = read_archive(last)
    optimizer = content["training"]["optimizer"]
    state = optimizer["state"]
    swapped = dict(zip(state, reversed(state.values()), strict=True))
    wrong: list[dict[str, Any]] = [
        optimizer | {"state": swapped}, optimizer | {"param_groups": []}, {}
    ]  # fmt: skip
    for spoiled in wrong:
        training = content["training"] | {"optimizer": spoiled}
        write_archive(last, content | {"training": training, "epoch": 1})
        assert_refused(resume(call, home), 5)


@pytest.mark.fault("K20")
def test_checkpoints_have_the_mode_that_the_umask_asks_for(trained: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    for path in (trained / "run" / "checkpoints").glob("*.pt"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path
