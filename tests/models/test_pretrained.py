"""Pretrained weights: from torch's cache or a file, checked, loaded without the head."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision import models

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.models.networks import BackboneNetwork, build_network
from neither.models.pretrained import load_pretrained, match_preprocessing
from neither.runtime import files
from neither.runtime.errors import CheckpointError, OutputError, UsageError

Patch = pytest.MonkeyPatch
NAME = "shufflenet_v2_x0_5"
CACHED = "shufflenetv2_x0.5-f707e7126e.pth"  # torchvision's file name of its weights


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return torch.hub's folder of weights, which is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@cache
def weights_of(name: str) -> dict[str, Tensor]:
    torch.manual_seed(7)
    options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    state: dict[str, Tensor] = models.get_model(name, weights=None, **options).state_dict()
    return state


def load(weights: str | Path, name: str = NAME, seed: int | None = 0) -> BackboneNetwork:
    settings = Model(name=name, weights=str(weights))
    network = build_network(settings, 3, 64, seed)
    assert isinstance(network, BackboneNetwork)
    load_pretrained(network, settings, 64)
    return network


def assert_loaded(network: BackboneNetwork, weights: dict[str, Tensor]) -> None:
    backbone = network.backbone.state_dict()
    assert backbone
    assert all(torch.equal(tensor, weights[name]) for name, tensor in backbone.items())


def test_weights_in_the_cache_of_torch_are_loaded_except_the_head(hub: Path) -> None:
    torch.save(weights_of(NAME), hub / CACHED)
    network = load("default")
    assert_loaded(network, weights_of(NAME))
    head = build_network(Model(name=NAME), 3, 64, seed=0).state_dict()["head.weight"]
    assert torch.equal(network.head.weight, head)


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "mnasnet0_5"])
def test_a_file_is_loaded_without_its_heads(name: str, tmp_path: Path) -> None:
    torch.save(weights_of(name), tmp_path / "own.pth")
    assert_loaded(load(tmp_path / "own.pth", name), weights_of(name))


def test_a_file_as_old_as_torch_0_3_is_loaded(tmp_path: Path) -> None:
    """Without counters, in the format before zip, and with DenseNet's old names."""
    weights = weights_of("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_loaded(load(tmp_path / "old.pth", "densenet121"), weights)


def test_weights_of_another_network_are_refused_with_the_first_differences(tmp_path: Path) -> None:
    torch.save(weights_of("mnasnet0_5"), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=rf"other\.pth: for {NAME} ") as refused:
        load(tmp_path / "other.pth")
    assert str(refused.value).count("wanted") == 3


def test_weights_for_another_image_size_are_refused_with_the_size(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in models.vit_b_32().state_dict().items()}
    # Expanded zeros: a file of all values would have 350 MB.
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()},
               tmp_path / "vit.pth")  # fmt: skip
    with pytest.raises(CheckpointError, match=r"\(1, 50, 768\) .* \(1, 5, 768\) .* 224 pixels"):
        load(tmp_path / "vit.pth", "vit_b_32", seed=None)


def change(name: str, value: float) -> Callable[[Path], None]:
    weights = weights_of(NAME)
    changed = {name: torch.full_like(weights[name], value)}
    return lambda path: torch.save(weights | changed, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "cannot be read"),
        (lambda path: torch.save(models.squeezenet1_1(), path), "more than tensors"),
        (lambda path: torch.save({"model": weights_of(NAME)}, path), "want a state dict"),
        pytest.param(
            lambda path: torch.save({"a": torch.eye(2).to_sparse()}, path),
            "a is not a dense tensor",
            marks=pytest.mark.filterwarnings("ignore:Validating sparse"),
        ),
        (change("conv1.0.weight", torch.nan), r"conv1\.0\.weight .*not finite"),
        (change("conv1.1.running_var", -1), r"conv1\.1\.running_var .*negative"),
    ],
    ids=["truncated", "pickled network", "nested", "sparse", "nan", "variance"],
)
def test_a_bad_file_is_refused(damage: Callable[[Path], None], message: str, hub: Path) -> None:
    torch.save(weights_of(NAME), hub / CACHED)
    damage(hub / CACHED)
    with pytest.raises(CheckpointError, match=message) as refused:
        load("default")
    assert CACHED in str(refused.value)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.weights: .*gone\.pth"):
        load(tmp_path / "gone.pth")


def test_a_failed_download_names_the_file(hub: Path, monkeypatch: Patch) -> None:
    url = f"http://127.0.0.1:1/{CACHED}"  # nothing listens on this port
    monkeypatch.setattr(models.ShuffleNet_V2_X0_5_Weights.DEFAULT.value, "url", url)
    monkeypatch.setattr(files, "_POLL_SECONDS", 0.01)
    with pytest.raises(OutputError) as refused:
        load("default")
    message = str(refused.value)
    assert "\n" not in message
    assert all(part in message for part in (NAME, url, CACHED, str(hub), "model.weights"))
    assert not list(hub.iterdir())


def test_the_checksum_of_a_download(hub: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    torch.save(weights_of(NAME), tmp_path / CACHED)
    published = (tmp_path / CACHED).as_uri()
    monkeypatch.setattr(models.ShuffleNet_V2_X0_5_Weights.DEFAULT.value, "url", published)
    with pytest.raises(OutputError, match="invalid hash value"):
        load("default")
    assert not list(hub.iterdir())


def test_the_preprocessing_is_that_of_the_weights() -> None:
    preprocessing = Preprocessing(96, "pad")
    assert match_preprocessing(preprocessing, Model(name="efficientnet_v2_l")) == preprocessing
    other = match_preprocessing(preprocessing, Model(name="efficientnet_v2_l", weights="default"))
    assert other == Preprocessing(96, "pad", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    own = match_preprocessing(preprocessing, Model(name="resnet18", weights="own.pth"))
    assert own == preprocessing  # which has the values of ImageNet already
