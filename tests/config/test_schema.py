"""Types, ranges, defaults and cross-checks of the keys, and the pages made from them."""

import json
import runpy
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from neither.config.loader import Document, check_config, override
from neither.config.schema import RENAMED_KEYS, Config, translate_old
from neither.runtime.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def load(*overrides: str, data: dict[str, Any] | None = None) -> Config:
    """Return a config with the required keys and these overrides."""
    document = Document("c.yaml", {
        "name": "photos", "classes": ("dog", "human", "neither"), "train": {"epochs": 60},
        "data": {"root": "photos"} if data is None else data,
    })  # fmt: skip
    for assignment in overrides:
        override(document, assignment)
    return check_config(document)


PRETRAINED = ("model.name=resnet18", "model.weights=~/own.pth")
HEAD = ("model.trainable=head", *PRETRAINED)


@pytest.mark.fault("C20")
@pytest.mark.parametrize(("key", "good", "bad"), [
    ("seed", ["0", str(2**63 - 1)], ["-1", str(2**63), "9" * 2000]),
    ("train.epochs", ["0", "100000"], ["-1", "100001"]),
    ("train.batch_size", ["1", "65536"], ["0", "65537"]),
    ("train.lr", ["1e-9", "100"], ["0", "-0.1", "100.1", ".inf", "-.inf", ".nan"]),
    ("train.momentum", ["0", "0.99"], ["1", "-0.1", ".nan"]),
    ("train.weight_decay", ["0", "10"], ["-1", "11", ".nan"]),
    ("train.warmup_epochs", ["0", "59"], ["-1", "60"]),
    ("train.validate_every_epochs", ["1", "100"], ["0", "0.5"]),
    ("train.label_smoothing", ["0", "0.9"], ["1", "-0.1"]),
    ("train.ema_decay", ["0", "0.999"], ["1", "1.1"]),
    ("train.max_grad_norm", ["0.1", "1e9"], ["0", ".inf"]),
    ("data.val_fraction", ["0.01", "0.8"], ["0", "1", ".nan"]),
    ("data.test_fraction", ["0", "0.8"], ["1", "-0.1"]),
    ("data.max_unreadable", ["0", "0.99"], ["1", "-0.1", ".nan"]),
    ("data.group_pattern", ["a", "'^(.*)_'", "'(?P<who>p[0-9]+)/'"],
     ["''", "'('", "'[a'", "'*'"]),
    ("data.sources", ["a", "'([^/]+)_'"], ["''", "'('"]),
    ("data.image_size", ["32", "1024"], ["7", "1025"]),
    ("data.aliases", ["{person: human, 8: dog, no: neither}"],
     ["{person: a/b}", "{' a': dog}"]),
    ("augmentation.train_scale", ["0.21", "1"], ["0.2", "1.1"]),
    ("augmentation.crop_scale", ["[0.1, 0.1]", "[1, 1]"],
     ["[0, 1]", "[0.5, 1.1]", "[0.5]", "[0.1, 0.2, 0.3]", "0.5", "[0.9, 0.5]"]),
    ("augmentation.rotation_degrees", ["0", "180"], ["-1", "181"]),
    ("augmentation.color_jitter", ["0", "0.9"], ["1", "-0.1"]),
    ("augmentation.grayscale", ["0", "1"], ["1.1", "-0.1"]),
    ("augmentation.random_erasing", ["0", "1"], ["1.1", "-0.1"]),
    ("augmentation.cutmix", ["0", "1"], ["1.1", "-0.1"]),
    ("model.width", ["8", "512"], ["7", "513"]),
    ("model.name", ["resnet18", "vit_b_16"], ["../x", "Resnet18", "''", "8net", "a-b"]),
    ("checkpoint.save_every_minutes", ["0.1"], ["0", "-1"]),
    ("decision.target_precision", ["0.5", "1"], ["0", "1.1"]),
    ("device", ["auto", "cpu", "mps", "cuda", "cuda:12"], ["gpu", "cuda:", "cuda:-1", "CPU"]),
    ("precision", ["auto", "float32", "bfloat16"], ["float16"]),
    ("name", ['"a"', "A.b-c_9", '"0"', "a" * 100],
     ["''", ".a", "-a", "a/b", "a b", "ä", "a" * 101, r'"a\n"']),
])  # fmt: skip
def test_the_ranges(key: str, good: list[str], bad: list[str]) -> None:
    base = PRETRAINED if key.startswith("model.") and key != "model.width" else ()
    for text in good:
        load(*base, f"{key}={text}")
    for text in bad:
        with pytest.raises(UsageError) as caught:
            load(*base, f"{key}={text}")
        for line in str(caught.value).split("\n       "):
            assert line.startswith(f"command line: {key}={text}: {key}")


def test_a_class_name_must_be_a_folder_name() -> None:
    values = load().model_dump()
    for name in ("", " dog", "dog ", "a/b", "a\\b", "a:b", "a*", "a?", 'a"', "a<b", "a|b", ".dog",
                 "..", "train", "val", "valid", "validation", "test", "unsure", "a\nb", "a\x1bb",
                 "\ud800"):  # fmt: skip
        with pytest.raises(ValidationError) as caught:
            Config.model_validate(values | {"classes": ("dog", "cat", name)})
        assert [item["loc"] for item in caught.value.errors()] == [("classes", 2)]


@pytest.mark.fault("C15")
@pytest.mark.parametrize("overrides", [
    ["classes=[dog, cat, dog]"], ["reject_class=cat"], ["data.ignored_folders=[dog]"],
    ["data.aliases={person: people}"], ["data.aliases={dog: human}"],
    ["data.aliases={cup: neither}", "data.ignored_folders=[cup]"],
    ["data.val_fraction=0.5", "data.test_fraction=0.5"], ["data.image_size=31"],
    ["model.weights=default"], ["model.pooling=max"],
    ["augmentation.train_scale=0.75", "model.name=softmax_regression"],
    ["train.batch_size=127", "augmentation.cutmix=0.1"],
    ["model.trainable=head", "model.name=resnet18"],
    ["model.trainable=head", "model.weights=~/own.pth"],
    ["augmentation.crop_scale=[0.5, 1.0]", *HEAD], ["augmentation.color_jitter=0.1", *HEAD],
    ["augmentation.grayscale=0.1", *HEAD], ["augmentation.train_scale=0.5", *HEAD],
])  # fmt: skip
def test_values_that_do_not_fit_together_are_an_error(overrides: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load(*overrides)
    key = overrides[0].partition("=")[0]
    assert str(caught.value).startswith(f"command line: {overrides[0]}: {key}: ")
    assert "\n" not in str(caught.value)


def test_the_edges_of_the_cross_checks_are_allowed() -> None:
    load("data.image_size=31", "model.name=softmax_regression")
    load("data.val_fraction=0.5", "data.test_fraction=0.49")
    load("train.epochs=0", "reject_class=dog")
    load("augmentation.train_scale=1.0", "model.name=softmax_regression")
    load("augmentation.train_scale=0.5", "train.batch_size=127")


def test_images_come_from_a_root_or_a_manifest() -> None:
    assert load().data.source == Path("photos")
    assert load(data={"manifest": "~/photos.csv"}).data.source == Path.home() / "photos.csv"
    config = load("data.manifest=photos.csv", "data.root=null")
    assert config.data.source == Path("photos.csv")
    for data in ({}, {"root": "a", "manifest": "b"}):
        with pytest.raises(UsageError, match=r"\Ac\.yaml: data\.root: [^\n]*data\.manifest"):
            load(data=data)


def test_defaults_that_depend_on_other_keys() -> None:
    for optimizer, *expected in (
        ("muon", 0.02, 0.95, 0.1), ("sgd", 0.1, 0.9, 1e-3), ("adamw", 1e-3, 0.9, 1e-2),
    ):  # fmt: skip
        train = load(f"train.optimizer={optimizer}").train
        assert [train.lr, train.momentum, train.weight_decay] == expected
        assert load(f"train.optimizer={optimizer}", "train.lr=0.5").train.lr == 0.5
    for epochs, warmup in ((0, 0), (1, 0), (4, 0), (5, 1), (10, 2), (25, 5), (26, 5), (600, 5)):
        assert load(f"train.epochs={epochs}").train.warmup_epochs == warmup


def test_a_config_of_version_1_is_translated() -> None:
    present = load(*PRETRAINED, "augmentation.cutmix=0.5").model_dump()
    old = deepcopy(present)
    for before, after in RENAMED_KEYS.items():
        section, _, key = before.partition(".")
        old[section][key] = old[section].pop(after.partition(".")[2])
    assert old != present
    assert translate_old(old) == present == translate_old(present)
    assert translate_old({"model": old["model"]}) == {"model": present["model"]}


def test_the_config_reference_and_the_json_schema_are_up_to_date() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "generate_config_reference.py"))
    command = "run: python docs/generate_config_reference.py"
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page == generator["markdown"](), command
    schema = json.loads((ROOT / "configs" / "schema.json").read_text(encoding="utf-8"))
    assert schema == generator["json_schema"](), command
    sections = {name: section["properties"] for name, section in schema["$defs"].items()}
    keys = [key for fields in (schema["properties"], *sections.values()) for key in fields]
    assert all(f"| `{key}` |" in page for key in keys if key.title() not in sections)


def test_no_reject_class_may_be_written_as_in_python_and_a_class_be_called_none() -> None:
    for none in ("None", "none", "null", ""):
        assert load(f"reject_class={none}").reject_class is None
    assert load("classes=[dog, None]", "reject_class=None").reject_class == "None"


def test_class_names_have_one_unicode_form() -> None:
    nfd, nfc = "Ma\u0308dchen", "M\u00e4dchen"
    config = load(f"classes=[dog, {nfd}]", f"data.aliases={{{nfd}2: {nfc}}}", f"reject_class={nfc}",
                  f"data.ignored_folders=[{nfd}3]", f"data.root={nfd}")  # fmt: skip
    assert (config.classes, config.reject_class) == (("dog", nfc), nfc)
    assert (config.data.aliases, config.data.ignored_folders) == ({f"{nfc}2": nfc}, (f"{nfc}3",))
    assert config.data.root == nfd  # a path is what is on disk
