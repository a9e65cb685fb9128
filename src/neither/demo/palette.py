"""Colors, and the few things one does with them."""

from collections.abc import Sequence
from random import Random

Color = tuple[int, int, int]

FUR: tuple[Color, ...] = (
    (133, 84, 48),
    (88, 58, 42),
    (58, 54, 60),
    (238, 232, 222),
    (146, 142, 144),
    (216, 166, 88),
    (234, 206, 162),
    (176, 98, 54),
    (108, 104, 112),
    (196, 140, 92),
)
SKIN: tuple[Color, ...] = (
    (255, 224, 196),
    (244, 204, 170),
    (232, 184, 142),
    (214, 160, 116),
    (186, 128, 86),
    (154, 100, 66),
    (122, 78, 54),
    (92, 60, 44),
)
HAIR: tuple[Color, ...] = (
    (44, 38, 40),
    (70, 46, 34),
    (112, 72, 42),
    (168, 112, 58),
    (224, 184, 104),
    (180, 84, 44),
    (178, 176, 178),
    (232, 228, 224),
    (150, 80, 130),
    (70, 110, 160),
)
CLOTH: tuple[Color, ...] = (
    (208, 62, 60),
    (232, 126, 58),
    (240, 196, 76),
    (96, 160, 84),
    (52, 116, 92),
    (66, 142, 190),
    (52, 82, 148),
    (126, 88, 168),
    (220, 120, 160),
    (238, 236, 230),
    (72, 74, 86),
    (138, 142, 150),
    (122, 84, 60),
    (94, 188, 182),
    (196, 168, 132),
    (36, 58, 88),
)
STONE: tuple[Color, ...] = (
    (196, 194, 188),
    (168, 170, 174),
    (214, 208, 196),
    (140, 146, 146),
    (150, 160, 146),
)

INK: Color = (38, 32, 36)
WHITE: Color = (252, 250, 246)
PINK: Color = (236, 132, 140)
WOOD: Color = (150, 104, 66)
METAL: Color = (164, 172, 182)
LEAF: Color = (86, 150, 76)


def mix(first: Color, second: Color, fraction: float) -> Color:
    """Blend two colors; a fraction of 0 returns the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * fraction) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(color: Color, fraction: float = 0.25) -> Color:
    """Shade a color; towards a bluish black, because pure black looks burnt."""
    return mix(color, (18, 14, 30), fraction)


def lighter(color: Color, fraction: float = 0.35) -> Color:
    """Light a color up, towards a warm white."""
    return mix(color, (255, 250, 240), fraction)


def pick(rng: Random, colors: Sequence[Color], spread: int = 12) -> Color:
    """Draw a color from a table and move each channel by at most `spread` of 255."""
    red, green, blue = (
        min(255, max(0, part + rng.randint(-spread, spread))) for part in rng.choice(colors)
    )
    return red, green, blue
