"""Weights to begin with: from torch's cache or a file, checked, and never needed again."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision import models

from neither.config.schema import Model
from neither.data.preprocessing import Preprocessing
from neither.models.networks import build_network
from neither.models.pretrained import load_pretrained, match_preprocessing
from neither.models.torchvision_networks import TorchvisionNetwork
from neither.runtime import files
from neither.runtime.errors import CheckpointError, OutputError, UsageError

NAME = "shufflenet_v2_x0_5"
CACHED = "shufflenetv2_x0.5-f707e7126e.pth"  # what torchvision calls its weights of it


@pytest.fixture(autouse=True)
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder where torch looks for weights; it is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def weights_of(name: str) -> dict[str, Tensor]:
    torch.manual_seed(7)
    own = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    state: dict[str, Tensor] = models.get_model(name, weights=None, **own).state_dict()
    return state


def begin(weights: str | Path, name: str = NAME, size: int = 64) -> TorchvisionNetwork:
    settings = Model(name=name, weights=str(weights))
    network = build_network(settings, 3, size, seed=0)
    assert isinstance(network, TorchvisionNetwork)
    load_pretrained(network, settings, size)
    return network


def assert_begun(network: TorchvisionNetwork, weights: dict[str, Tensor]) -> None:
    own = network.backbone.state_dict()
    assert own
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.items())


def test_weights_that_torch_has_downloaded_before_are_taken(checkpoints: Path) -> None:
    weights = weights_of(NAME)
    torch.save(weights, checkpoints / CACHED)
    network = begin("default")
    assert_begun(network, weights)
    head = build_network(Model(name=NAME), 3, 64, seed=0).state_dict()["head.weight"]
    assert torch.equal(network.head.weight, head)  # new, by the seed


@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "mnasnet0_5"])
def test_a_file_is_taken_without_its_head_and_heads_on_the_way(name: str, tmp_path: Path) -> None:
    weights = weights_of(name)
    torch.save(weights, tmp_path / "own.pth")
    assert_begun(begin(tmp_path / "own.pth", name), weights)


def test_a_file_as_old_as_torch_0_3_is_taken(tmp_path: Path) -> None:
    """Without counters, in the format before zip, and with DenseNet's names of then."""
    weights = weights_of("densenet121")
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_begun(begin(tmp_path / "old.pth", "densenet121"), weights)


def test_a_file_with_another_head_than_imagenets_is_taken(tmp_path: Path) -> None:
    weights = weights_of(NAME)
    weights |= {"fc.weight": torch.zeros(12, 1024), "fc.bias": torch.zeros(12)}
    torch.save(weights, tmp_path / "own.pth")
    assert_begun(begin(tmp_path / "own.pth"), weights)


def test_weights_of_another_network_are_refused_with_the_first_differences(tmp_path: Path) -> None:
    torch.save(weights_of("mnasnet0_5"), tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"other\.pth: for shufflenet_v2_x0_5 .*wanted"
    ) as told:
        begin(tmp_path / "other.pth")
    assert str(told.value).count("wanted") == 3


def test_weights_for_images_of_another_size_are_refused_with_the_size(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in models.vit_b_32().state_dict().items()}
    # One number in all places: a file of all of them would have 350 MB.
    torch.save({name: torch.zeros(()).expand(shape) for name, shape in shapes.items()},
               tmp_path / "vit.pth")  # fmt: skip
    said = r"\(1, 50, 768\) in the checkpoint, \(1, 5, 768\) wanted; .* images of 224 pixels"
    with pytest.raises(CheckpointError, match=said):
        begin(tmp_path / "vit.pth", "vit_b_32")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def spoil(path: Path) -> None:
    torch.save(weights_of(NAME) | {"conv1.0.weight": torch.full((24, 3, 3, 3), torch.nan)}, path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "cannot be read"),
        (lambda path: path.write_bytes(b"no weights"), "cannot be read"),
        (lambda path: torch.save(models.squeezenet1_1(), path), "more than tensors"),
        (lambda path: torch.save({"model": weights_of(NAME)}, path), "want a state dict"),
        (spoil, "conv1.0.weight holds numbers that are not finite"),
    ],
    ids=["cut", "text", "pickled network", "nested", "nan"],
)
def test_a_file_that_cannot_be_used_is_refused(
    damage: Callable[[Path], None], said: str, checkpoints: Path
) -> None:
    path = checkpoints / CACHED
    torch.save(weights_of(NAME), path)
    damage(path)
    for weights in ("default", path):
        with pytest.raises(CheckpointError, match=said):
            begin(weights)


def test_a_file_that_is_not_there_is_a_slip_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.weights: .*gone\.pth: no such file"):
        begin(tmp_path / "gone.pth")


def test_without_a_network_one_line_says_which_file_to_put_where(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:1/{CACHED}"  # a port where nobody listens
    monkeypatch.setattr(models.ShuffleNet_V2_X0_5_Weights.DEFAULT.value, "url", nowhere)
    monkeypatch.setattr(files, "_POLL_SECONDS", 0.01)
    with pytest.raises(OutputError) as told:
        begin("default")
    text = str(told.value)
    assert "\n" not in text
    assert text.startswith(f"the weights of {NAME} cannot be downloaded from {nowhere} (")
    assert f"put {CACHED}, fetched elsewhere, into {checkpoints}, or name it in model" in text
    assert not list(checkpoints.iterdir())


def test_what_is_downloaded_must_have_the_sum_in_its_name(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(weights_of(NAME), tmp_path / CACHED)
    published = (tmp_path / CACHED).as_uri()
    monkeypatch.setattr(models.ShuffleNet_V2_X0_5_Weights.DEFAULT.value, "url", published)
    with pytest.raises(OutputError, match="invalid hash value"):
        begin("default")
    assert not list(checkpoints.iterdir())


def test_the_preprocessing_is_that_of_the_weights() -> None:
    plain = Preprocessing(96, "pad")
    assert match_preprocessing(plain, Model(name="efficientnet_v2_l")) == plain
    other = match_preprocessing(plain, Model(name="efficientnet_v2_l", weights="default"))
    assert other == Preprocessing(96, "pad", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (
        match_preprocessing(plain, Model(name="resnet18", weights="own.pth")) == plain
    )  # ImageNet's already
