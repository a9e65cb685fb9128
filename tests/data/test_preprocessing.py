from dataclasses import fields, replace

import pytest

from neither.data.preprocessing import DECODER_VERSION, Preprocessing

OTHER = {
    "image_size": 65,
    "resize": "pad",
    "mean": (0.485, 0.456, 0.407),
    "std": (0.228, 0.224, 0.225),
    "decoder": DECODER_VERSION + 1,
}


def test_the_fingerprint_is_the_same_today_and_in_a_year() -> None:
    # Checkpoints bear it: where this fails, they are refused or misnamed.
    assert Preprocessing(64, "squash", decoder=2).fingerprint() == "16bc8a7494b3"


@pytest.mark.parametrize("name", [field.name for field in fields(Preprocessing)])
def test_the_fingerprint_changes_with_every_attribute(name: str) -> None:
    plain = Preprocessing(64)
    other = replace(plain, **{name: OTHER[name]})  # type: ignore[arg-type]
    assert other != plain
    assert other.fingerprint() != plain.fingerprint()
    assert replace(other, **{name: getattr(plain, name)}).fingerprint() == plain.fingerprint()
