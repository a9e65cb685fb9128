"""The features of a human, or of a statue of one, drawn by lot."""

from dataclasses import dataclass
from random import Random

from neither.demo.palette import CLOTH, HAIR, SKIN, Color, darker, pick

_STYLES = ("short", "short", "bald", "bob", "long", "long", "bun", "curly", "ponytail", "spiky")
_EYES: tuple[Color, ...] = ((74, 48, 34), (60, 110, 150), (70, 120, 80), (40, 34, 36))


@dataclass(frozen=True)
class Face:
    """What makes one head differ from another's.

    Attributes:
        gaze: Where it looks: -0.3 left, 0 at the viewer, 0.3 right.
        stone: Whether it is hewn: blind eyes, no color but the skin's.
    """

    skin: Color
    hair: Color
    eyes: Color
    cloth: Color
    style: str
    hat: str
    beard: bool
    glasses: bool
    smile: str
    gaze: float
    stone: bool


def choose_face(rng: Random) -> Face:
    """Draw the features of a living human by lot."""
    return Face(
        skin=pick(rng, SKIN, 5),
        hair=pick(rng, HAIR),
        eyes=rng.choice(_EYES),
        cloth=pick(rng, CLOTH),
        style=rng.choice(_STYLES),
        hat=rng.choice(("none",) * 8 + ("cap", "beanie", "brim")),
        beard=rng.random() < 0.15,
        glasses=rng.random() < 0.18,
        smile=rng.choice(("line", "line", "open", "small")),
        gaze=rng.choice((0.0, 0.0, -0.22, 0.22)),
        stone=False,
    )


def choose_stone_face(rng: Random, stone: Color) -> Face:
    """Draw the features of a statue by lot, all in one stone."""
    return Face(
        skin=stone,
        hair=darker(stone, 0.12),
        eyes=stone,
        cloth=stone,
        style=rng.choice(("short", "bald", "bob", "curly", "bun")),
        hat="none",
        beard=rng.random() < 0.3,
        glasses=False,
        smile="small",
        gaze=rng.choice((0.0, -0.22, 0.22)),
        stone=True,
    )
