"""How a file becomes the network's input, as one object."""

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

if TYPE_CHECKING:  # decoding processes import this module, and need neither torch nor pydantic
    from torch import Tensor

_Mean = Annotated[float, Ge(0), Le(1)]
_Std = Annotated[float, Gt(0), Le(1)]
# Raise it whenever pixels or fingerprints change: both are cached. Version 2 ignores embedded color
# profiles; 3 converts them to sRGB.
DECODER_VERSION = 3
READABLE_DECODERS = (2, DECODER_VERSION)


@dataclass(frozen=True)
class Preprocessing:
    """How a file becomes the network's input; stored in every checkpoint, used by every command."""

    image_size: Annotated[int, Ge(1)]  # pixels a side of the square that is the network's input
    # how an image becomes a square: squash it, pad it, or crop its center
    resize: Literal["squash", "pad", "crop"] = "crop"
    # Mean and standard deviation of red, green and blue, as fractions of full brightness.
    # ImageNet's, so that pretrained networks fit.
    mean: tuple[_Mean, _Mean, _Mean] = (0.485, 0.456, 0.406)
    std: tuple[_Std, _Std, _Std] = (0.229, 0.224, 0.225)
    decoder: int = DECODER_VERSION  # the version of the code that turns files into pixels

    @property
    def applies_profiles(self) -> bool:
        """Return whether embedded color profiles are converted to sRGB."""
        return self.decoder > 2

    def fingerprint(self) -> str:
        """Return 12 hexadecimal digits that are equal only if all attributes are."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def __str__(self) -> str:
        """Describe it in a few words."""
        size = f"{self.image_size}x{self.image_size}"
        return f"{self.resize} to {size} pixels, preprocessing {self.fingerprint()}"


def normalize(pixels: "Tensor", preprocessing: Preprocessing) -> "Tensor":
    """Turn pixels into the network's input: subtract the mean, divide by the standard deviation.

    Pixels are (B, H, W, 3) uint8 RGB, the input is (B, 3, H, W) float32, channels last in memory.
    """
    values = pixels.float()
    mean = 255 * values.new_tensor(preprocessing.mean)
    std = 255 * values.new_tensor(preprocessing.std)
    return ((values - mean) / std).permute(0, 3, 1, 2)
