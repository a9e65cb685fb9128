"""Networks of timm: trained, resumed, embedded, explained, exported; their weights and errors."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn

from calls import Call
from images import make_splits
from moments import before, terminate
from neither.config.schema import Model
from neither.models.checkpoint import load_checkpoint, read_archive
from neither.models.efficientnet_lite import find_imagenet_weights
from neither.models.networks import BackboneNetwork, build_network
from neither.models.pretrained import load_pretrained
from neither.runtime import files
from neither.runtime.errors import CheckpointError, OutputError, UsageError
from neither.training import trainer

pytestmark = pytest.mark.usefixtures("no_plots")
Patch = pytest.MonkeyPatch
CONFIG = """name: test
classes: [dog, human, neither]
reject_class: neither
device: cpu
data: {root: images, image_size: 64}
model: {name: NAME, weights: weights.pth}
train: {epochs: 2, batch_size: 8, optimizer: adamw}
"""
# The smallest of timm, and whether they have class activation maps.
FAMILIES = {"test_resnet": True, "test_efficientnet": True, "test_vit": False}


def make_weights(name: str, num_classes: int = 7) -> dict[str, Tensor]:
    torch.manual_seed(3)
    network: nn.Module = timm.create_model(name, num_classes=num_classes)
    weights: dict[str, Tensor] = network.state_dict()
    return weights


def load(name: str, weights: str | Path, size: int = 64) -> BackboneNetwork:
    settings = Model(name=f"timm/{name}", weights=str(weights))
    network = build_network(settings, 3, size, seed=0)
    assert isinstance(network, BackboneNetwork)
    load_pretrained(network, settings, size)
    return network.eval()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: Patch) -> Path:
    make_splits(tmp_path / "images", train=6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(home: Path, name: str) -> None:
    torch.save(make_weights(name), home / "weights.pth")
    (home / "test.yaml").write_text(CONFIG.replace("NAME", f"timm/{name}"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_resumes_explains_and_exports(
    name: str, home: Path, call: Call, monkeypatch: Patch
) -> None:
    write_config(home, name)
    assert call("train", "test.yaml", "--output-dir", "whole").code == 0
    with monkeypatch.context() as patch:
        before(trainer, "train_step", 4, terminate)(patch)
        assert call("train", "test.yaml", "--output-dir", "part").code == 143
    (home / "weights.pth").unlink()
    assert call("train", "test.yaml", "--output-dir", "part").code == 0
    one, other = (read_archive(home / run / "checkpoints" / "last.pt")[0]["weights"]
                  for run in ("whole", "part"))  # fmt: skip
    assert all(torch.equal(one[key], other[key]) for key in one)
    done = call("predict", "whole", "images/test", "--explain", "maps")
    assert (done.code == 0) == FAMILIES[name], done.err
    assert len([*home.glob("maps/**/*.png")]) == 9 * FAMILIES[name]
    # It compares all probabilities, to 1e-4, before it writes the file.
    done = call("export", "whole", "--format", "pt2", "--output", "model.pt2")
    assert done.code == 0, done.err


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_is_fitted_to_the_features_of_a_frozen_backbone(
    name: str, home: Path, call: Call
) -> None:
    write_config(home, name)
    done = call("train", "test.yaml", "model.trainable=head", "train.epochs=50")
    assert done.code == 0, done.err
    checkpoint = load_checkpoint(home / "runs" / "test")
    assert checkpoint.preprocessing.mean == tuple(timm.get_pretrained_cfg(name).mean)
    wanted = load(name, home / "weights.pth").backbone.state_dict()
    own = checkpoint.build().get_submodule("backbone").state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in wanted.items())


@torch.inference_mode()
def test_lite0_from_the_package_equals_our_own() -> None:
    path, size = find_imagenet_weights(), 96
    own = Model(name="efficientnet_lite0", weights=str(path))
    network = build_network(own, 3, size, seed=0)
    assert isinstance(network, BackboneNetwork)
    load_pretrained(network, own, size)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    features = load("tf_efficientnet_lite0", path, size).backbone(images)
    torch.testing.assert_close(features, network.eval().backbone(images), rtol=0, atol=1e-4)


class Hub(SimpleHTTPRequestHandler):
    """The Hugging Face hub, as far as a download of one file needs it."""

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serve_hub(folder: Path, monkeypatch: Patch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=folder)) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        for name, value in {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(folder / "cache"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(files, "_POLL_SECONDS", 0.01)
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_default_weights_are_those_of_the_tag_on_the_hub(
    name: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    """The position embeddings of test_vit are resampled to another image size."""
    tagged = f"{name}.r160_in1k"
    repo = tmp_path / "timm" / tagged / "resolve" / "main"
    repo.mkdir(parents=True)
    save_file(make_weights(name, 1000), repo / "model.safetensors")
    with serve_hub(tmp_path, monkeypatch):
        downloaded = load(tagged, "default")
    again = load(name, "default")  # from its cache
    file = load(name, repo / "model.safetensors")
    for key, tensor in file.backbone.state_dict().items():
        assert torch.equal(downloaded.backbone.state_dict()[key], tensor), key
        assert torch.equal(again.backbone.state_dict()[key], tensor), key


@pytest.mark.parametrize("is_offline", [True, False], ids=["no network", "not found"])
def test_without_the_file_the_message_names_model_weights(
    is_offline: bool, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)  # else it tries for a minute
    message = r"test_resnet.*model\.weights=FILE"
    with serve_hub(tmp_path, monkeypatch), pytest.raises(OutputError, match=message) as refused:
        load("test_resnet", "default")
    assert "\n" not in str(refused.value)


def change(weights: dict[str, Tensor], **tensors: Tensor | None) -> dict[str, Any]:
    changed = weights | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in changed.items() if tensor is not None}


@pytest.mark.parametrize(
    "weights",
    [
        make_weights("test_efficientnet"),
        change(make_weights("test_resnet"), conv1__0__weight=None),
        change(make_weights("test_resnet"), conv1__0__weight=torch.zeros(3)),
        change(make_weights("test_resnet"), more=torch.zeros(3)),
        change(make_weights("test_resnet"), fc__bias=torch.full((7,), torch.nan)),
    ],
    ids=["another network", "one lacking", "another shape", "one more", "nan"],
)
def test_a_wrong_state_dict_is_refused_in_one_line(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(weights, tmp_path / "own.pth")
    with pytest.raises(CheckpointError, match=r"own\.pth: ") as refused:
        load("test_resnet", tmp_path / "own.pth")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "hint"), [("resnet81", "timm/resnet18"), ("resnet18.a9_in1k", "timm/resnet18.a")]
)
def test_an_unknown_name_or_tag_gets_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.name: .* did you mean {hint}"):
        build_network(Model(name=f"timm/{name}"), 3, 64, seed=0)


def test_a_network_without_published_weights() -> None:
    with pytest.raises(UsageError, match="no published weights"):
        load("test_coatnet", "default")


def test_without_timm_the_message_names_the_extra(
    home: Path, call: Call, monkeypatch: Patch
) -> None:
    write_config(home, "test_resnet")
    monkeypatch.setitem(sys.modules, "timm", None)
    done = call("train", "test.yaml")
    assert done.code == 6
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "pip install 'neither[timm]'" in line
    assert not (home / "runs").exists()
