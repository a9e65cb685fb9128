import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from neither.config.loader import load_config, to_yaml
from neither.config.schema import Config
from neither.runtime.errors import UsageError

MINIMAL = """\
name: photos
classes: [dog, human, neither]
data:
  root: photos
train:
  epochs: 60
"""  # every required key; what a test appends begins in line 7


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def load(path: Path, text: str | bytes, *overrides: str) -> Config:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, overrides)


def complaints(path: Path, text: str | bytes, *overrides: str) -> list[str]:
    """Return what the refusal says, line by line, `path` written as @."""
    with pytest.raises(UsageError) as caught:
        load(path, text, *overrides)
    return [line.strip() for line in str(caught.value).replace(str(path), "@").split("\n")]


def complaint(path: Path, text: str | bytes, *overrides: str) -> str:
    """Return the one thing that the refusal says."""
    (line,) = complaints(path, text, *overrides)
    return line


def test_the_required_keys_are_enough(path: Path) -> None:
    config = load(path, MINIMAL)
    assert (config.name, config.classes) == ("photos", ("dog", "human", "neither"))
    assert (config.data.root, config.train.epochs) == ("photos", 60)


def test_defaults_are_those_of_the_design(path: Path) -> None:
    assert load(path, MINIMAL).model_dump() == {
        "name": "photos", "seed": 0, "device": "auto", "precision": "auto",
        "compile": False,
        "classes": ("dog", "human", "neither"), "reject_class": None,
        "data": {"root": "photos", "manifest": None, "ignored_folders": (), "aliases": {},
                 "group_pattern": None, "max_unreadable": 0.01, "val_fraction": 0.15,
                 "test_fraction": 0.15, "image_size": 64, "resize": "crop", "store": "auto"},
        "augmentation": {"train_scale": 1.0, "crop_scale": (0.25, 1.0), "horizontal_flip": True,
                         "rotation_degrees": 7.0, "color_jitter": 0.2, "grayscale": 0.1,
                         "random_erasing": 0.25, "cutmix": 0.0},
        "model": {"name": "small_cnn", "width": 32, "weights": "none", "freeze_epochs": 0,
                  "backbone_lr_factor": 1.0},
        "train": {"epochs": 60, "batch_size": 128, "optimizer": "muon", "lr": 0.02,
                  "momentum": 0.95, "weight_decay": 0.1, "warmup_epochs": 5,
                  "validate_every_epochs": 1, "label_smoothing": 0.0, "ema_decay": 0.98,
                  "max_grad_norm": 5.0},
        "checkpoint": {"save_every_minutes": 10.0},
        "decision": {"target_precision": 0.98},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: {}", "@:7: modle: unknown key; did you mean model?"),
        ("model:\n  widht: 8", "@:8: model.widht: unknown key; did you mean model.width?"),
        ("epochs: 3", "@:7: epochs: unknown key; it belongs at train.epochs"),
        ("model:\n  lr: 1", "@:8: model.lr: unknown key; it belongs at train.lr"),
        ("weight_decy: 1", "@:7: weight_decy: unknown key; did you mean train.weight_decay?"),
        ("checkpoint: {qqq: 1}",
         "@:7: checkpoint.qqq: unknown key; known here: save_every_minutes"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_with_what_was_meant(path: Path, text: str, said: str) -> None:
    assert complaint(path, MINIMAL + text) == said


@pytest.mark.parametrize(
    ("key", "line", "where"),
    [
        ("name", "name: photos\n", "@:1"),
        ("classes", "classes: [dog, human, neither]\n", "@:1"),
        ("train.epochs", "epochs: 60", "@:5"),
        ("data", "data:\n  root: photos\n", "@:1"),
    ],
)
def test_a_missing_key_is_named_with_the_line_of_its_section(
    path: Path, key: str, line: str, where: str
) -> None:
    other = {"train.epochs": "lr: 1"}.get(key, "")
    assert complaint(path, MINIMAL.replace(line, other)) == f"{where}: {key}: is required"


def test_an_empty_section_is_told_to_hold_keys(path: Path) -> None:
    assert complaint(path, MINIMAL.replace("  epochs: 60\n", "")) == (
        "@:5: train: want a section with keys below it"
    )


@pytest.mark.parametrize(
    ("key", "text", "want"),
    [
        ("train.epochs", "true", "integer"),
        ("train.epochs", '"64"', "integer"),
        ("train.epochs", "64.5", "integer"),
        ("train.epochs", "64.0", "integer"),
        ("train.epochs", "[64]", "integer"),
        ("train.epochs", "", "integer, got nothing"),
        ("train.lr", "yes", "number"),
        ("train.lr", "fast", "number, got 'fast'"),
        ("train.lr", "{a: 1}", "number"),
        ("augmentation.horizontal_flip", "1", "boolean"),
        ("augmentation.horizontal_flip", '"true"', "boolean"),
        ("data.root", "5", "text, but YAML reads 5 as a number: quote it"),
        ("data.root", "", "this or data.manifest, got neither"),
        ("data.manifest", "5", "text, but YAML reads 5 as a number: quote it"),
        ("data.aliases", "[a, b]", "dictionary"),
        ("data.group_pattern", "7", "text, but YAML reads 7 as a number: quote it"),
        ("data.ignored_folders", "cats", "a list such as [a, b], got 'cats'"),
        ("data", "5", "a section with keys below it"),
        ("train.optimizer", "adam", "'muon', 'sgd' or 'adamw', got 'adam'"),
        (
            "model.name",
            "ResNet",
            "small_cnn, softmax_regression or torchvision's name of a network, got 'ResNet'",
        ),
        ("model.weights", "5", "text, but YAML reads 5 as a number: quote it"),
        ("seed", "1e3", "integer"),
        ("seed", "9" * 2000, "integer"),
        ("train.lr", "9" * 500, "number"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(path: Path, key: str, text: str, want: str) -> None:
    said = complaint(path, MINIMAL, f"{key}={text}")
    assert said.startswith(f"command line: {key}={text}: {key}: want {want}")


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("seed", ["0", str(2**63 - 1)], ["-1", str(2**63)]),
        ("train.epochs", ["0", "100000"], ["-1", "100001"]),
        ("train.batch_size", ["1", "65536"], ["0", "65537"]),
        ("train.lr", ["1e-9", "100"], ["0", "-0.1", "100.1", ".inf", "-.inf", ".nan"]),
        ("train.momentum", ["0", "0.99"], ["1", "-0.1", ".nan"]),
        ("train.weight_decay", ["0", "10"], ["-1", "11", ".nan"]),
        ("train.warmup_epochs", ["0", "59"], ["-1"]),
        ("train.label_smoothing", ["0", "0.9"], ["1", "-0.1"]),
        ("train.ema_decay", ["0", "0.999"], ["1", "1.1"]),
        ("train.max_grad_norm", ["0.1", "1e9"], ["0", ".inf"]),
        ("data.val_fraction", ["0.01", "0.8"], ["0", "1", ".nan"]),
        ("data.test_fraction", ["0", "0.8"], ["1", "-0.1"]),
        ("data.max_unreadable", ["0", "0.99"], ["1", "-0.1", ".nan"]),
        ("data.group_pattern", ["a", "'^(.*)_'", "'(?P<who>p[0-9]+)/'"],
         ["''", "'('", "'[a'", "'*'"]),
        ("data.image_size", ["32", "1024"], ["7", "1025"]),
        ("augmentation.crop_scale", ["[0.1, 0.1]", "[1, 1]"],
         ["[0, 1]", "[0.5, 1.1]", "[0.5]", "[0.1, 0.2, 0.3]", "0.5"]),
        ("augmentation.rotation_degrees", ["0", "180"], ["-1", "181"]),
        ("augmentation.color_jitter", ["0", "0.9"], ["1", "-0.1"]),
        ("augmentation.grayscale", ["0", "1"], ["1.1", "-0.1"]),
        ("augmentation.random_erasing", ["0", "1"], ["1.1", "-0.1"]),
        ("model.width", ["8", "512"], ["7", "513"]),
        ("model.name", ["resnet18", "vit_b_16"], ["../x", "Resnet18", "''", "8net", "a-b"]),
        ("checkpoint.save_every_minutes", ["0.1"], ["0", "-1"]),
        ("decision.target_precision", ["0.5", "1"], ["0", "1.1"]),
        ("device", ["auto", "cpu", "mps", "cuda", "cuda:12"], ["gpu", "cuda:", "cuda:-1", "CPU"]),
        ("precision", ["auto", "float32", "bfloat16"], ["float16"]),
        ("name", ["a", "A.b-c_9", "0", "a" * 100],
         ["''", ".a", "-a", "a/b", "a b", "ä", "a" * 101, r'"a\n"']),
    ],
)  # fmt: skip
def test_ranges_hold_what_they_promise_and_no_more(
    path: Path, key: str, good: list[str], bad: list[str]
) -> None:
    if key == "name":
        good = [f'"{text}"' for text in good]
    for text in good:
        load(path, MINIMAL, f"{key}={text}")
    for text in bad:
        for said in complaints(path, MINIMAL, f"{key}={text}"):
            assert said.startswith(f"command line: {key}={text}: {key}")


@pytest.mark.parametrize(
    "name",
    ["", " dog", "dog ", "a/b", "a\\b", "a:b", "a*", "a?", 'a"', "a<b", "a|b", ".dog", "..",
     "train", "val", "valid", "validation", "test", "unsure", "a\nb", "a\x1bb", "\ud800"],
)  # fmt: skip
def test_a_class_that_could_be_no_folder_is_refused(name: str) -> None:
    values = yaml.safe_load(MINIMAL) | {"classes": ("dog", "cat", name)}
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(values)
    assert [item["loc"] for item in caught.value.errors()] == [("classes", 2)]


def test_an_unquoted_no_among_the_classes_is_told_to_be_quoted(path: Path) -> None:
    said = complaint(path, MINIMAL.replace("neither", "no"))
    assert said == '@:2: classes.2: want text, but YAML reads no as false: quote it, "no"'
    assert load(path, MINIMAL.replace("neither", '"no"')).classes[2] == "no"


def test_bad_classes_are_not_counted_as_missing_ones(path: Path) -> None:
    found = complaints(path, MINIMAL.replace("[dog, human, neither]", "[no, 7]"))
    assert [each.split(": ")[1] for each in found] == ["classes.0", "classes.1"]


def test_one_class_is_too_few(path: Path) -> None:
    said = complaint(path, MINIMAL.replace("[dog, human, neither]", "[dog]"))
    assert said == "@:2: classes: want at least 2 items, got [dog]"


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "1.e-3", "+1e-3", "0.1e-2"])
def test_numbers_are_read_as_people_write_them(path: Path, text: str) -> None:
    assert load(path, f"{MINIMAL}  lr: {text}\n").train.lr == 0.001


@pytest.mark.parametrize("text", ["010", "0x10", "1_000", "1:30", "2024-01-01", "0o7"])
def test_no_number_is_read_in_another_base_or_as_a_time(path: Path, text: str) -> None:
    if text == "010":
        assert load(path, MINIMAL.replace("60", text)).train.epochs == 10
    else:
        said = complaint(path, MINIMAL.replace("60", text))
        assert said == f"@:6: train.epochs: want integer, got '{text}'"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["classes=[dog, cat, dog]"], "classes: dog stands twice"),
        (["reject_class=cat"], "reject_class: cat is not one of classes: dog, human, neither"),
        (["data.ignored_folders=[dog]"], "data.ignored_folders: dog is also one of classes"),
        (["data.aliases={person: people}"], "data.aliases: people is not one of classes"),
        (["data.aliases={dog: human}"], "data.aliases: dog is itself one of classes"),
        (["data.aliases={cup: neither}", "data.ignored_folders=[cup]"],
         "data.aliases: cup is also left out"),
        (["data.val_fraction=0.5", "data.test_fraction=0.5"],
         "data.val_fraction: together with data.test_fraction nothing is left to train on"),
        (["data.image_size=31"],
         "data.image_size: model.name small_cnn wants 32 or more, got 31"),
        (["model.weights=default"],
         "model.weights: small_cnn has none to begin with: want none, got default"),
        (["model.freeze_epochs=1", "model.name=resnet18"],
         "model.freeze_epochs: random weights must learn from the first epoch: want 0, got 1"),
        (["model.backbone_lr_factor=0.5", "model.name=resnet18"],
         "model.backbone_lr_factor: random weights learn at train.lr: want 1, got 0.5"),
        (["augmentation.train_scale=0.75", "model.name=softmax_regression"],
         "augmentation.train_scale: softmax_regression has a weight for each pixel of "
         "data.image_size: want 1"),
        (["train.batch_size=127", "augmentation.cutmix=0.1"],
         "train.batch_size: augmentation.cutmix pairs images up: want an even number, got 127"),
        (["augmentation.crop_scale=[0.9, 0.5]"],
         "augmentation.crop_scale: the smaller share comes first"),
        (["train.warmup_epochs=60"],
         "train.warmup_epochs: nothing is left of train.epochs, 60, after 60"),
    ],
)  # fmt: skip
def test_values_that_contradict_each_other_are_refused(
    path: Path, overrides: list[str], said: str
) -> None:
    assert complaint(path, MINIMAL, *overrides) == f"command line: {overrides[0]}: {said}"


def test_images_come_from_a_root_or_a_manifest_but_not_from_both(path: Path) -> None:
    manifest = MINIMAL.replace("root: photos", "manifest: ~/photos.csv")
    config = load(path, manifest)
    assert (config.data.root, config.data.manifest) == (None, "~/photos.csv")
    assert config.data.source == Path.home() / "photos.csv"
    assert load(path, MINIMAL).data.source == Path("photos")
    said = "data.root: want this or data.manifest, got"
    unset = "both; data.root=null unsets it"
    both = manifest.replace("data:", "data:\n  root: x")
    assert complaint(path, both) == f"@:4: {said} {unset}"
    assert complaint(path, MINIMAL.replace("root: photos", "resize: pad")) == f"@:3: {said} neither"
    other = "data.manifest=photos.csv"
    assert complaint(path, MINIMAL, other) == f"@:4: {said} {unset}"
    assert load(path, MINIMAL, other, "data.root=null").data.source == Path("photos.csv")


def test_a_mistake_elsewhere_brings_no_complaint_about_a_manifest(path: Path) -> None:
    text = MINIMAL.replace("root: photos", "manifest: photos.csv") + "modle: {}\n"
    assert complaint(path, text) == "@:7: modle: unknown key; did you mean model?"
    said = complaint(path, MINIMAL.replace("root: photos", "manifest: 5"))
    assert said == '@:4: data.manifest: want text, but YAML reads 5 as a number: quote it, "5"'


def test_aliases_are_words_for_classes(path: Path) -> None:
    aliases = "aliases:\n    person: human\n    no: neither\n    8: dog\n"
    config = load(path, MINIMAL.replace("root: photos\n", f"root: photos\n  {aliases}"))
    assert config.data.aliases == {"person": "human", "no": "neither", "8": "dog"}
    config = load(path, MINIMAL, "data.aliases={person: human, people: human}")
    assert config.data.aliases == {"person": "human", "people": "human"}
    assert load(path, MINIMAL, "data.aliases.person=human").data.aliases == {"person": "human"}


def test_what_is_wrong_with_an_alias_is_told_with_its_line(path: Path) -> None:
    def wrong(alias: str) -> str:
        text = MINIMAL.replace("root: photos", f"root: photos\n  aliases:\n    {alias}")
        return complaint(path, text)

    assert wrong("people: 5") == (
        '@:6: data.aliases.people: want text, but YAML reads 5 as a number: quote it, "5"'
    )
    assert wrong("people: a/b").startswith("@:6: data.aliases.people: a class is a folder: ")
    assert wrong('" people": human').startswith("@:6: data.aliases. people")
    assert wrong("people: humans") == "@:5: data.aliases: humans is not one of classes"


def test_a_pattern_that_is_none_is_refused_with_its_line_and_why(path: Path) -> None:
    said = complaint(
        path, MINIMAL.replace("root: photos", "root: photos\n  group_pattern: '(p[0-9]+'")
    )
    assert said.startswith("@:5: data.group_pattern: not a regular expression: missing )")


def test_the_edges_of_contradictions_are_allowed(path: Path) -> None:
    load(path, MINIMAL, "data.image_size=31", "model.name=softmax_regression")
    load(path, MINIMAL, "data.val_fraction=0.5", "data.test_fraction=0.49")
    load(path, MINIMAL, "train.warmup_epochs=59", "reject_class=dog")
    load(path, MINIMAL, "train.epochs=0")
    load(path, MINIMAL, "augmentation.train_scale=1.0", "model.name=softmax_regression")
    load(path, MINIMAL, "augmentation.train_scale=0.5", "train.batch_size=127")


def test_everything_wrong_is_said_at_once(path: Path) -> None:
    text = MINIMAL.replace("60", "many") + "modle: {}\nreject_class: cat\nname: again\n"
    assert complaints(path, text) == [
        "@:6: train.epochs: want integer, got 'many'",
        "@:7: modle: unknown key; did you mean model?",
        "@:8: reject_class: cat is not one of classes: dog, human, neither",
        "@:9: name: stands twice, first in line 1",
    ]


def test_a_contradiction_with_a_bad_value_is_not_invented(path: Path) -> None:
    said = complaint(path, MINIMAL + "  warmup_epochs: 50\n", "train.epochs=many")
    assert said == "command line: train.epochs=many: train.epochs: want integer, got 'many'"


def test_an_empty_mapping_lacks_every_required_key(path: Path) -> None:
    found = complaints(path, "{}\n")
    assert [each.split(": ")[1] for each in found] == ["name", "classes", "data", "train"]


def test_overrides_take_precedence_and_the_last_one_wins(path: Path) -> None:
    config = load(path, MINIMAL, "train.epochs=7", "train.epochs=8", "model.width=16")
    assert (config.train.epochs, config.model.width) == (8, 16)
    assert config.data.root == "photos"


def test_an_override_may_be_a_list_or_hold_an_equals_sign(path: Path) -> None:
    config = load(path, MINIMAL, "classes=[a, b]", "data.root=/data/x=1", "reject_class=b")
    assert (config.classes, config.data.root) == (("a", "b"), "/data/x=1")


def test_an_override_mends_what_the_file_has_wrong(path: Path) -> None:
    assert load(path, MINIMAL.replace("60", "many"), "train.epochs=3").train.epochs == 3


def test_overrides_go_through_the_same_checks(path: Path) -> None:
    assert complaints(path, MINIMAL + "seed: -1\n", "train.lr=fast", "train.epoch=3") == [
        "@:7: seed: want greater than or equal to 0, got -1",
        "command line: train.lr=fast: train.lr: want number, got 'fast'",
        "command line: train.epoch=3: train.epoch: unknown key; did you mean train.epochs?",
    ]


@pytest.mark.parametrize(
    ("optimizer", "lr", "momentum", "weight_decay"),
    [("muon", 0.02, 0.95, 0.1), ("sgd", 0.1, 0.9, 1e-3), ("adamw", 1e-3, 0.9, 1e-2)],
)
def test_defaults_suit_the_optimizer(
    path: Path, optimizer: str, lr: float, momentum: float, weight_decay: float
) -> None:
    train = load(path, MINIMAL, f"train.optimizer={optimizer}").train
    assert (train.lr, train.momentum, train.weight_decay) == (lr, momentum, weight_decay)
    assert load(path, MINIMAL, f"train.optimizer={optimizer}", "train.lr=0.5").train.lr == 0.5


def test_default_warmup_fits_short_runs(path: Path) -> None:
    for epochs, warmup in ((0, 0), (1, 0), (4, 0), (5, 1), (10, 2), (25, 5), (26, 5), (600, 5)):
        config = load(path, MINIMAL, f"train.epochs={epochs}")
        assert config.train.warmup_epochs == warmup


def test_a_config_cannot_be_changed(path: Path) -> None:
    config = load(path, MINIMAL)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 1
    assert (config.seed, config.train.epochs) == (0, 60)


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: text.isprintable() and text == text.strip()
)
LIKE_NUMBERS = st.sampled_from(["08", "1e5", "no", "null", "~", "<<", "=", "1:30", "- a", "0x1",
                                "2024-01-01", "[a", "#a", "a #b", "a: b", ".inf", "true", "!a",
                                "&a", "a  b", "'", "%a", "1_0", "-", "{", "@"])  # fmt: skip
CLASSES = st.lists(
    (NAMES | LIKE_NUMBERS).filter(
        lambda text: not re.search(r'[/\\:*?"<>|]|^\.|^(train|val|valid|validation|test)$', text)
    ),
    min_size=2,
    max_size=6,
    unique=True,
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    low, high = sorted(draw(st.tuples(*[st.floats(1e-6, 1)] * 2)))
    classes = tuple(draw(CLASSES))
    ignored = tuple({*draw(st.lists(NAMES, max_size=2))} - {*classes})
    return {
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "classes": classes,
        "reject_class": draw(st.none() | st.sampled_from(classes)),
        "data": {
            # "~0" would be the home of a user named 0, and is refused.
            "root": draw((NAMES | LIKE_NUMBERS).filter(lambda text: text == "~" or text[0] != "~")),
            "ignored_folders": ignored,
            "val_fraction": draw(st.floats(1e-9, 0.8)),
            "aliases": draw(
                st.dictionaries(
                    (NAMES | LIKE_NUMBERS).filter(lambda name: name not in classes + ignored),
                    st.sampled_from(classes),
                    max_size=2,
                )
            ),
            "group_pattern": draw(
                st.none() | st.sampled_from(["^(.*)_", r"p(\d+)", "a: b", "no", "08"])
            ),
            "max_unreadable": draw(st.floats(0, 0.9)),
        },
        "augmentation": {
            "train_scale": 1.0,
            "crop_scale": (low, high),
            "horizontal_flip": draw(st.booleans()),
        },
        "train": {
            "epochs": draw(st.integers(0, 100_000)),
            "lr": draw(st.floats(0, 100, exclude_min=True)),
        },
    }


@given(configs())
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_written_config_reads_back_as_the_same(path: Path, values: dict[str, Any]) -> None:
    config = Config.model_validate(values)
    assert load(path, to_yaml(config)) == config


@given(values=st.dictionaries(
    st.sampled_from([*Config.model_fields, "nmae", "lr"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text("abc", max_size=3),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["root", "epochs", "lr", "name", "x"]), inner),
        max_leaves=6,
    ),
))  # fmt: skip
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_mapping_gives_a_config_or_a_complaint_with_its_place(
    path: Path, values: dict[str, Any]
) -> None:
    try:
        config = load(path, yaml.safe_dump(values))
    except UsageError as error:
        lines = str(error).split("\n       ")
        assert all(re.match(rf"{re.escape(str(path))}:\d+: [\w.]+: \S", line) for line in lines)
    else:
        assert set(values) <= set(config.model_dump())


KEYS = [name for name, field in Config.model_fields.items() if name not in ("data", "train")]


@given(
    st.lists(st.sampled_from([*KEYS, "train.lr", "data.root", "a.b", "train.lr.x", "", "."]),
             max_size=3),
    st.lists(st.text(max_size=8), min_size=3, max_size=3),
)  # fmt: skip
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_override_gives_a_config_or_names_the_command_line(
    path: Path, keys: list[str], texts: list[str]
) -> None:
    overrides = [f"{key}={text}" for key, text in zip(keys, texts, strict=False)]
    said = ""
    try:
        config = load(path, MINIMAL, *overrides)
        assert config.classes
    except UsageError as error:
        said = str(error)
    assert said.startswith("command line: ") or not said  # the file itself is fine


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "dangling link"])
def test_what_is_no_regular_file_is_refused_at_once(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    reason = "not a regular file" if kind in ("folder", "fifo") else "no such file"
    with pytest.raises(UsageError, match=f"config.yaml: {reason}; want a config such as"):
        load_config(path)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("freeze_epochs", ["0", "3"], ["-1", "0.5"]),
        ("backbone_lr_factor", ["0.01", "1"], ["0", "1.1"]),
    ],
)
def test_pretrained_weights_are_frozen_at_first_and_then_learn_slowly(
    path: Path, key: str, good: list[str], bad: list[str]
) -> None:
    pretrained = ("model.name=resnet18", "model.weights=~/own.pth")
    model = load(path, MINIMAL, *pretrained).model
    assert (model.freeze_epochs, model.backbone_lr_factor) == (1, 0.1)
    for text in good:
        load(path, MINIMAL, *pretrained, f"model.{key}={text}")
    for text in bad:
        assert "model." + key in complaint(path, MINIMAL, *pretrained, f"model.{key}={text}")


def test_loading_a_config_imports_no_torch(path: Path) -> None:
    path.write_text(MINIMAL)
    code = (
        "import sys; from pathlib import Path; from neither.config.loader import load_config; "
        "load_config(Path(sys.argv[1]), ['seed=5']); "
        "print(sorted({'torch', 'torchvision', 'matplotlib', 'tensorboard'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_file_that_is_no_yaml_gives_one_message_without_echoes(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: x\n  classes: [a, b\n")
    with pytest.raises(UsageError) as refused:
        load_config(path, ["train.epochs=2"])
    assert str(refused.value).startswith(f"{path}:2:")
    assert "\n" not in str(refused.value)


def test_one_word_where_a_list_is_wanted_is_told_what_a_list_is(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: x\nclasses: dog\ndata: {root: x}\ntrain: {epochs: 1}\n")
    with pytest.raises(UsageError, match=r"classes: want a list such as \[a, b\], got 'dog'"):
        load_config(path)


def test_the_home_of_nobody_is_no_root(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "name: x\nclasses: [a, b]\ndata: {root: ~nobody-at-all/x}\ntrain: {epochs: 1}\n"
    )
    with pytest.raises(UsageError, match=r":3: data\.root: no such user's home folder"):
        load_config(path)
