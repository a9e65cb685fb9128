import numpy as np
import pytest
from numpy.typing import NDArray

from neither.data.dataset_report import find_shortcuts, predict_from_metadata
from neither.data.fingerprints import FINGERPRINT, KNOWN_FORMATS, ImageFlag


def make_fingerprints(num: int, seed: int = 0) -> NDArray[np.void]:
    """Make records in which no trait has to do with any class."""
    random = np.random.default_rng(seed)
    records = np.zeros(num, FINGERPRINT)
    records["sha256"] = random.integers(1, 256, (num, 32))
    records["width"] = random.integers(100, 1000, num)
    records["height"] = random.integers(100, 1000, num)
    records["format"] = random.integers(0, 2, num)
    return records


def traits(
    records: NDArray[np.void], labels: list[str], modes: list[str] | None = None
) -> set[str]:
    found = find_shortcuts(records, modes or ["RGB"] * len(labels), labels)
    return {f"{each.label}: {each.trait}" for each in found}


LABELS = ["dog", "human", "neither"] * 100


@pytest.mark.parametrize("seed", range(20))
def test_where_no_trait_tells_a_class_none_is_reported(seed: int) -> None:
    records = make_fingerprints(300, seed)
    assert find_shortcuts(records, ["RGB"] * 300, LABELS) == []
    assert predict_from_metadata(records, ["RGB"] * 300, LABELS) < 0.45


def test_a_class_of_another_format_is_told_with_its_shares() -> None:
    records = make_fingerprints(300)
    records["format"] = [label == "dog" for label in LABELS]
    first = find_shortcuts(records, ["RGB"] * 300, LABELS)[0]
    assert (first.label, first.trait) == ("dog", KNOWN_FORMATS[1])
    assert (first.fraction, first.fraction_of_others, first.balanced_accuracy) == (1.0, 0.0, 1.0)
    assert predict_from_metadata(records, ["RGB"] * 300, LABELS) == pytest.approx(2 / 3, abs=0.12)


def test_small_tall_grey_and_mode_are_each_told() -> None:
    human = np.array(LABELS) == "human"
    records = make_fingerprints(300)
    records["width"][human] //= 4
    assert {"human: taller than wide", "human: short side under"} <= {
        name.partition(" 1")[0].partition(" 2")[0] for name in traits(records, LABELS)
    }
    records = make_fingerprints(300)
    records["flags"][human] = ImageFlag.GRAYSCALE
    assert traits(records, LABELS) == {"human: grayscale"}
    modes = ["L" if label == "human" else "RGB" for label in LABELS]
    assert "human: mode L" in traits(make_fingerprints(300), LABELS, modes)
    records = make_fingerprints(300)
    records["width"][human] = records["height"][human]
    assert "human: exactly square" in traits(records, LABELS)


def test_a_weak_trait_of_few_images_is_chance() -> None:
    records = make_fingerprints(30)
    records["flags"][:2] = ImageFlag.GRAYSCALE  # two of ten dogs
    labels = ["dog"] * 10 + ["human"] * 20
    assert "dog: grayscale" not in traits(records, labels)


def test_a_rare_trait_that_one_class_alone_has_is_told() -> None:
    records = make_fingerprints(3000)
    labels = ["human"] * 1000 + ["dog"] * 2000
    records["flags"][:90] = ImageFlag.GRAYSCALE
    records["flags"][1000:1030] = ImageFlag.GRAYSCALE
    assert "human: grayscale" in traits(records, labels)


def test_of_several_limits_of_size_only_the_most_telling_is_kept() -> None:
    records = make_fingerprints(300)
    human = np.array(LABELS) == "human"
    records["width"][human] //= 4
    records["height"][human] //= 4
    found = find_shortcuts(records, ["RGB"] * 300, LABELS)
    sizes = [each for each in found if each.label == "human" and "short side" in each.trait]
    assert len(sizes) == 1
    assert all(each.balanced_accuracy <= found[0].balanced_accuracy for each in found)


def test_a_class_is_never_guessed_from_its_own_image() -> None:
    """Every image has a size of its own: seen again it would tell everything, left out nothing."""
    records = make_fingerprints(90)
    records["width"] = 2 ** np.arange(90 // 3).repeat(3)[:90] % 2**31
    records["height"] = records["width"]
    labels = ["dog", "human", "neither"] * 30
    assert predict_from_metadata(records, ["RGB"] * 90, labels) < 0.5
