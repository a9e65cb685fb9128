"""The rows of the fault matrix on checkpoints, by the commands that a user types.

What files may hold is tried byte by byte in `tests/model/test_archive.py`.
"""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calls import Call, Done
from faults.tiny import assert_refused, read_scores
from images import CLASSES, draw_shape
from neither.models.checkpoint import SCHEMA_VERSION, load_checkpoint, read_archive, write_archive
from neither.runtime import files

GOLDEN = Path(__file__).parent.parent / "models" / "golden"


def evaluate(call: Call, home: Path, model: Path | None = None) -> Done:
    return call("evaluate", model or home / "run", home / "images", "--output-dir", home / "out")


def resume(call: Call, home: Path, *more: str) -> Done:
    return call("train", home / "tiny.yaml", *more, "--output-dir", home / "run")


def change(path: Path, **values: Any) -> None:  # noqa: ANN401
    write_archive(path, read_archive(path)[0] | values)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda content: content[: len(content) // 2], "incomplete"),
    "a flipped bit": (lambda c: c[:99] + bytes([c[99] ^ 1]) + c[100:], "the checksum differs"),
    "a hole": (lambda c: c[:2000] + bytes(1000) + c[3000:], "the checksum differs"),
    "a byte too many": (lambda content: content + b"\0", "damaged"),
    "a byte before": (lambda content: b"\0" + content, "instead of"),
    "twice": (lambda content: content + content, "instead of"),
    "empty": (lambda _: b"", "damaged or not one of ours"),
    "text": (lambda _: b"weights\n", "damaged or not one of ours"),
    "a page": (lambda _: b"<html>404</html>", "damaged or not one of ours"),
}


@pytest.mark.fault("K01", "K02", "K03", "K06")
@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_refused_by_each_command(
    damage: Callable[[bytes], bytes], said: str, home: Path, call: Call
) -> None:
    for name in ("best.pt", "last.pt", "previous.pt"):
        path = home / "run" / "checkpoints" / name
        path.write_bytes(damage(path.read_bytes()))
    assert_refused(evaluate(call, home), 5, "best.pt", said)
    assert not (home / "out").exists()
    assert_refused(resume(call, home), 5, "last.pt", said, "--fresh")


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


@pytest.mark.fault("K06")
def test_what_is_there_and_no_checkpoint_exits_5_and_what_is_not_exits_2(
    home: Path, call: Call, watchdog: None
) -> None:
    import os

    os.mkfifo(home / "pipe.pt")
    assert_refused(evaluate(call, home, home / "pipe.pt"), 5, "pipe.pt: not a file")
    assert_refused(evaluate(call, home, home / "images"), 5, "is this the folder of a run?")
    assert_refused(evaluate(call, home, home / "no.pt"), 2, "no such run or checkpoint")


@pytest.mark.fault("K07")
def test_the_weights_of_another_program_are_refused(home: Path, call: Call) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), home / "other.pt")
    assert_refused(evaluate(call, home, home / "other.pt"), 5, "not a checkpoint of this project")


@pytest.mark.fault("K08")
def test_weights_of_another_network_are_refused_with_the_first_differences(
    home: Path, call: Call
) -> None:
    best = home / "run" / "checkpoints" / "best.pt"
    change(best, model={"name": "small_cnn", "width": 8})
    done = evaluate(call, home)
    assert_refused(done, 5, "the weights fit another network", "nothing in the checkpoint")
    assert done.err.count("wanted") == 3
    content, _ = read_archive(best)
    change(best, model={"name": "softmax_regression"},
           preprocessing=content["preprocessing"] | {"image_size": 16})  # fmt: skip
    assert_refused(evaluate(call, home), 5, "(3, 192) in the checkpoint, (3, 768) wanted")


@pytest.mark.fault("K09", "E15")
def test_the_names_in_the_checkpoint_count_and_never_the_order_of_folders(
    home: Path, call: Call
) -> None:
    before = read_scores(evaluate(call, home), home / "out")
    best = home / "run" / "checkpoints" / "best.pt"
    weights = read_archive(best)[0]["weights"]
    change(best, classes=("neither", "human", "dog"),
           weights={name: tensor.flip(0) for name, tensor in weights.items()})  # fmt: skip
    assert read_scores(evaluate(call, home), home / "out") == before
    change(best, classes=("Neither", "human", "dog"), reject_class=None)
    done = evaluate(call, home)
    assert "did you mean" in done.err or "neither" in done.out


@pytest.mark.fault("K10", "E14")
def test_checkpoints_of_older_schemas_give_the_same_predictions(
    home: Path, call: Call, tmp_path: Path
) -> None:
    scores = []
    for path in sorted(GOLDEN.glob("schema_*.pt")):
        shutil.copy(path, tmp_path)
        scores.append(read_scores(evaluate(call, home, tmp_path / path.name), home / "out"))
    assert len(scores) == SCHEMA_VERSION - 3
    assert all(each == scores[0] for each in scores)


@pytest.mark.fault("K11")
def test_a_checkpoint_of_a_newer_version_is_refused_naming_both(home: Path, call: Call) -> None:
    change(home / "run" / "checkpoints" / "best.pt", schema_version=99, made_by="7.8.9")
    assert_refused(evaluate(call, home), 5, "made by neither 7.8.9 with schema 99; this is ")


@pytest.mark.fault("K12", "E11")
def test_weights_that_are_not_finite_are_refused_by_name(home: Path, call: Call) -> None:
    best = home / "run" / "checkpoints" / "best.pt"
    weights = read_archive(best)[0]["weights"]
    weights["head.weight" if "head.weight" in weights else next(iter(weights))][0, 0] = torch.nan
    change(best, weights=weights)
    assert_refused(evaluate(call, home), 5, "weight holds numbers that are not finite")


@pytest.mark.fault("E11")
def test_logits_that_are_not_finite_are_refused_and_are_no_dogs(home: Path, call: Call) -> None:
    best = home / "run" / "checkpoints" / "best.pt"
    weights = read_archive(best)[0]["weights"]
    change(best, weights={name: torch.full_like(each, 3e38) for name, each in weights.items()})
    assert_refused(evaluate(call, home), 5, "not finite")
    assert not (home / "out" / "predictions.csv").exists()


@pytest.mark.fault("K13")
@pytest.mark.parametrize("part", ["temperature", "preprocessing", "flip_tta", "classes"])
def test_nothing_that_is_missing_is_made_up(part: str, home: Path, call: Call) -> None:
    best = home / "run" / "checkpoints" / "best.pt"
    content, _ = read_archive(best)
    del content[part]
    write_archive(best, content)
    assert_refused(evaluate(call, home), 5, f"{part} of this checkpoint is missing or wrong")


@pytest.mark.fault("K16")
def test_a_finished_run_says_so_and_exits_0(home: Path, call: Call) -> None:
    done = resume(call, home)
    assert done.code == 0
    assert "this run is finished" in done.err
    assert_refused(resume(call, home, "train.epochs=1"), 2, "train.epochs: 2 became 1")


@pytest.mark.fault("K17")
def test_who_reads_while_another_writes_gets_one_whole_version(home: Path) -> None:
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
def test_momenta_of_other_parameters_are_refused(home: Path, call: Call) -> None:
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
        assert_refused(resume(call, home), 5, "does not fit the run's network and optimizer")


@pytest.mark.fault("K05")
def test_a_compressed_checkpoint_is_refused_unexpanded(home: Path, call: Call) -> None:
    import zipfile

    best = home / "run" / "checkpoints" / "best.pt"
    with zipfile.ZipFile(best) as plain, zipfile.ZipFile(home / "small.pt", "w") as small:
        for part in plain.namelist():
            small.writestr(part, plain.read(part), zipfile.ZIP_DEFLATED)
    assert_refused(evaluate(call, home, home / "small.pt"), 5, "compressed")


@pytest.mark.fault("K20")
def test_checkpoints_have_the_mode_that_the_umask_asks_for(trained: Path) -> None:
    import os

    umask = os.umask(0)
    os.umask(umask)
    for path in (trained / "run" / "checkpoints").glob("*.pt"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


@pytest.mark.fault("K15")
def test_a_run_with_only_its_best_checkpoint_is_not_started_over(home: Path, call: Call) -> None:
    for name in ("last.pt", "previous.pt"):
        (home / "run" / "checkpoints" / name).unlink()
    (home / "run" / "checkpoints" / ".last.pt.123.tmp").write_bytes(b"half")
    assert_refused(resume(call, home), 5, "last.pt is missing", "--fresh")
    assert resume(call, home, "--fresh").code == 0
    assert not list((home / "run" / "checkpoints").glob(".*.tmp"))
    draw_shape(CLASSES[0], 1).save(home / "one.png")
    assert call("evaluate", home / "run", home / "one.png", "--output-dir", home / "o").code == 0
