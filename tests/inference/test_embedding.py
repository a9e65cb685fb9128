"""Features: computed once, kept by content and by all that their bits depend on, found again."""

import errno
import os
import time
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from moments import before, terminate
from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.inference import embedding
from neither.inference.classifier import BATCH_SIZE, compute_outputs, forward_size
from neither.inference.embedding import compute_head_logits, embed
from neither.models.efficientnet_lite import fused
from neither.models.networks import BackboneNetwork, FlipTTA, build_network
from neither.runtime import console, files, signals

Patch = pytest.MonkeyPatch
CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(8)
NUM = 2 * BATCH_SIZE + 5  # three batches, and blocks of two: see `cache`


class Backbone(nn.Module):
    """Features that differ from image to image, and a count of the forward passes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = nn.Parameter(torch.randn(7, 3 * 8 * 8, generator=generator))
        self.num_passes = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 7)."""
        self.num_passes += 1
        return images.flatten(1) @ self.weights.T


def draw_pixels(num: int, size: int = 8) -> Tensor:
    values = np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8)
    return torch.from_numpy(values)


def keys_of(pixels: Tensor) -> NDArray[np.uint8]:
    digests = b"".join(sha256(image.numpy().tobytes()).digest() for image in pixels)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


SIZE = forward_size(Backbone())
PASSES = -(-NUM // SIZE)
PIXELS = draw_pixels(NUM)
KEYS = keys_of(PIXELS)


@dataclass
class Call:
    """The arguments of `embed`, of which a test changes some.

    Attributes:
        source: the folder of the images.
        rows: of the images to embed; None for all.
        threads: of torch.
    """

    source: Path
    preprocessing: Preprocessing = PREPROCESSING
    seed: int = 0
    flip: bool = False
    rows: list[int] = field(default_factory=lambda: list(range(NUM)))

    def __call__(self) -> tuple[Tensor, int]:
        """Return the features and the number of forward passes."""
        backbone = Backbone(self.seed).eval()
        network = FlipTTA(backbone) if self.flip else backbone
        rows = torch.tensor(self.rows)
        found = embed(network, PIXELS, rows, KEYS[self.rows], self.preprocessing, CPU, self.source)
        return found, backbone.num_passes

    def expected(self) -> Tensor:
        """Return the outputs of the network."""
        rows = torch.tensor(self.rows)
        return compute_outputs(Backbone(self.seed).eval(), PIXELS, rows, self.preprocessing, CPU)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return the folder of all features, which is empty; a block has two batches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(embedding, "_BLOCK_IMAGES", 2 * BATCH_SIZE)
    return tmp_path / "cache" / "neither" / "features"


@pytest.fixture
def call(tmp_path: Path) -> Call:
    return Call(tmp_path / "photos")


@pytest.fixture
def warnings(monkeypatch: Patch) -> list[str]:
    """Return the warnings that are given."""
    given: list[str] = []
    monkeypatch.setattr(embedding, "warn", given.append)
    return given


def blocks(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*"))


def test_features_are_the_outputs_of_the_network_to_the_bit(call: Call) -> None:
    features, passes = call()
    assert features.dtype == torch.float32
    assert torch.equal(features, call.expected())
    assert passes == PASSES


def test_a_second_call_computes_nothing(call: Call, cache: Path) -> None:
    first, _ = call()
    assert len(blocks(cache)) == 2
    again, passes = call()
    assert passes == 0
    assert torch.equal(again, first)
    assert len(blocks(cache)) == 2


def test_images_are_known_by_content_not_by_row(call: Call) -> None:
    features, _ = call()
    order = [130, 3, 3, 77]
    some, passes = replace(call, rows=order, source=call.source / "elsewhere")()
    assert passes == 0
    assert torch.equal(some, features[order])


def test_only_new_images_are_computed(call: Call, cache: Path) -> None:
    replace(call, rows=list(range(70)))()
    features, passes = call()
    assert passes == -(-(NUM - 70) // SIZE)
    assert torch.equal(features, call.expected())
    assert len(blocks(cache)) == 2
    assert call()[1] == 0


def test_duplicates_have_the_same_features(call: Call) -> None:
    features, passes = replace(call, rows=[5] * 3)()
    assert passes == 1
    assert torch.equal(features, call.expected()[[5] * 3])
    assert replace(call, rows=[5])()[1] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"flip": True},
        {"preprocessing": replace(PREPROCESSING, std=(0.5, 0.5, 0.5))},
        {"preprocessing": replace(PREPROCESSING, resize="pad")},
    ],
    ids=["weights", "flip", "normalisation", "resize"],
)
def test_other_features_have_another_folder(change: dict[str, Any], call: Call) -> None:
    call()
    other = replace(call, **change)
    features, passes = other()
    assert passes >= PASSES
    if not other.flip:
        assert torch.equal(features, other.expected())
    assert other()[1] == call()[1] == 0


@pytest.mark.parametrize("what", ["threads", "torch", "pillow"])
def test_another_environment_has_another_folder(what: str, call: Call, monkeypatch: Patch) -> None:
    call()
    if what == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    else:
        module = {"torch": torch, "pillow": PIL}[what]
        monkeypatch.setattr(module, "__version__", "0.0")
    assert call()[1] == PASSES


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    middle = 3 * len(content) // 4  # in the features
    path.write_bytes({
        "bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "kind": bytes([content[0] ^ 1]) + content[1:],
        "cut": content[:-1],
        "short": content[:5],
        "empty": b"",
    }[kind])  # fmt: skip


@pytest.mark.parametrize("kind", ["bit", "kind", "cut", "short", "empty"])
def test_a_damaged_block_is_computed_again(kind: str, call: Call, cache: Path) -> None:
    call()
    damage(blocks(cache)[0], kind)
    features, passes = call()
    assert 0 < passes < PASSES
    assert torch.equal(features, call.expected())
    assert call()[1] == 0


def test_a_full_disk_costs_only_the_cache(
    call: Call, cache: Path, warnings: list[str], monkeypatch: Patch
) -> None:
    attempts = []

    def full(descriptor: int) -> None:
        attempts.append(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    features, _ = call()
    assert torch.equal(features, call.expected())
    assert len(attempts) == len(warnings) == 1
    assert str(cache) in warnings[0]
    assert blocks(cache) == []


def test_a_cache_among_the_images_is_not_written(call: Call, cache: Path) -> None:
    inside = replace(call, source=cache.parents[1])
    features, passes = inside()
    assert passes == PASSES
    assert torch.equal(features, inside.expected())
    assert not cache.exists()


@pytest.mark.parametrize("what", ["a file", "no home", "a link to itself", "read-only"])
def test_without_a_cache_all_is_computed(
    what: str, call: Call, cache: Path, warnings: list[str], monkeypatch: Patch
) -> None:
    if what == "a file":
        cache.parent.mkdir(parents=True)
        cache.write_text("")
    elif what == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")

        def no_home() -> Path:
            raise RuntimeError

        monkeypatch.setattr(Path, "home", no_home)
    elif what == "a link to itself":
        cache.parent.mkdir(parents=True)
        cache.symlink_to(cache)
    else:
        access = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: cache not in Path(path).parents and access(path, mode)
        )
    features, passes = call()
    assert passes == PASSES
    assert torch.equal(features, call.expected())
    assert len(warnings) == 1


def test_a_block_of_another_user_is_read(call: Call, monkeypatch: Patch) -> None:
    call()

    def not_ours(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "utime", not_ours)
    assert call()[1] == 0


def test_blocks_in_use_are_kept_and_others_expire(call: Call, cache: Path) -> None:
    call()
    weeks_ago = time.time() - 20 * 86_400
    for path in blocks(cache):
        os.utime(path, (weeks_ago, weeks_ago))
    call()
    used = blocks(cache)
    assert all(path.stat().st_mtime > weeks_ago + 86_400 for path in used)
    os.utime(used[0], (1, 1))
    replace(call, seed=1)()
    assert [path for path in used if path.exists()] == used[1:]
    assert call()[1] > 0


def test_features_outlive_a_month_without_a_run(call: Call, cache: Path) -> None:
    call()
    for path in blocks(cache):
        os.utime(path, (0, 0))
    assert call()[1] == 0


def test_stopped_midway_keeps_finished_blocks(call: Call, cache: Path, monkeypatch: Patch) -> None:
    with monkeypatch.context() as patch, signals.installed():
        before(embedding, "compute_outputs", 3, terminate)(patch)
        with pytest.raises(signals.Stopped):
            call()
    assert len(blocks(cache)) == 1
    features, passes = call()
    assert passes == 1
    assert torch.equal(features, call.expected())


def test_two_at_once_do_not_disturb_each_other(
    call: Call, warnings: list[str], monkeypatch: Patch
) -> None:
    """Another process starts while a block is being written."""
    results, write = [], files.write_atomic
    replaced = Path.replace

    def beside(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replaced)
        results.append(call())
        return replaced(path, target)

    monkeypatch.setattr(Path, "replace", beside)
    results.append(call())
    assert warnings == []
    assert all(torch.equal(features, call.expected()) for features, _ in results)
    assert call()[1] == 0
    assert files.write_atomic is write


@pytest.fixture(scope="module")
def network() -> BackboneNetwork:
    """EfficientNet-Lite0 with a head whose logits differ from image to image."""
    network = build_network(Model(name="efficientnet_lite0"), 3, 32, seed=0)
    assert isinstance(network, BackboneNetwork)
    network(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    nn.init.normal_(network.head.weight)
    nn.init.normal_(network.head.bias)
    return network.eval()


@pytest.mark.parametrize("is_flipped", [False, True])
@pytest.mark.parametrize("num", [1, BATCH_SIZE, BATCH_SIZE + 3])
def test_the_head_on_features_has_the_bits_of_the_network(
    is_flipped: bool, num: int, network: BackboneNetwork, tmp_path: Path
) -> None:
    pixels, preprocessing = draw_pixels(num, 32), Preprocessing(32)
    whole = fused(network)
    assert isinstance(whole, BackboneNetwork)
    backbone = fused(network.backbone)
    if is_flipped:  # as a checkpoint is built
        backbone, whole.backbone = FlipTTA(backbone), FlipTTA(whole.backbone)
    rows = torch.arange(num)
    features = embed(backbone, pixels, rows, keys_of(pixels), preprocessing, CPU, tmp_path / "x")
    logits = compute_head_logits(whole, features)
    assert logits.shape == (num, 3)
    assert torch.equal(logits, compute_outputs(whole, pixels, rows, preprocessing, CPU))


def test_networks_of_the_same_weights_do_not_share_features(tmp_path: Path) -> None:
    pixels, found = draw_pixels(3, 64), []
    for pooling in ("average", "max"):
        network = build_network(Model(name="efficientnet_lite0", pooling=pooling), 3, 64, seed=0)
        backbone = network.get_submodule("backbone").eval()
        found.append(embed(backbone, pixels, torch.arange(3), keys_of(pixels), Preprocessing(64),
                           CPU, tmp_path / "x"))  # fmt: skip
    assert (found[1] > found[0]).any()


def test_a_progress_bar_shows_the_speed(call: Call, monkeypatch: Patch) -> None:
    notes = []
    monkeypatch.setattr(console.ProgressBar, "set_note", lambda _, note: notes.append(note))
    call()
    assert len(notes) == 3
    assert all(note.endswith(" images/s") for note in notes)
