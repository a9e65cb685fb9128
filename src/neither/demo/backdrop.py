"""Backdrops: rooms, landscapes and patterns, the same behind every class."""

from random import Random

from PIL import Image, ImageDraw

from neither.demo.palette import CLOTH, FUR, STONE, WHITE, Color, darker, lighter, mix, pick

OUTDOORS = ("grass", "grass", "beach", "street", "sky")
BACKDROPS = ("room", "room", *OUTDOORS, "plain", "gradient", "blotches", "tiles")

_SKIES = ((150, 202, 236), (190, 222, 240), (250, 206, 160), (236, 170, 160), (120, 160, 214))
_DULL_SKIES = ((206, 212, 220), (92, 104, 150))
_GRASS = ((126, 180, 90), (96, 152, 86), (170, 190, 96), (190, 170, 96), (84, 130, 96))
_SANDS = ((236, 214, 164), (222, 196, 150), (210, 190, 170))


def draw_backdrop(rng: Random, kind: str, wide: int, tall: int, horizon: float) -> Image.Image:
    """Draw one of `BACKDROPS`.

    Args:
        rng: For colors and details.
        kind: Which one.
        wide: Width in pixels.
        tall: Height in pixels.
        horizon: Where the ground begins, in pixels from the top; patterns have none.

    Returns:
        An RGB image.
    """
    if kind == "plain":
        return Image.new("RGB", (wide, tall), _muted(rng))
    if kind == "gradient":
        return _fade(wide, tall, _muted(rng), _muted(rng))
    if kind == "blotches":
        return _draw_blotches(rng, wide, tall)
    if kind == "tiles":
        return _draw_tiles(rng, wide, tall)
    sky = pick(rng, _SKIES + _DULL_SKIES)
    image = _fade(wide, tall, sky, lighter(sky, 0.6))
    draw = ImageDraw.Draw(image)
    if kind == "room":
        _paint_room(draw, rng, wide, tall, horizon)
    elif kind == "grass":
        _paint_grass(draw, rng, wide, tall, horizon, sky)
    elif kind == "beach":
        sea = mix(pick(rng, (CLOTH[5], CLOTH[6], CLOTH[13])), sky, 0.25)
        draw.rectangle((0, horizon - tall * rng.uniform(0.08, 0.2), wide, horizon), fill=sea)
        draw.rectangle((0, horizon, wide, tall), fill=pick(rng, _SANDS))
        draw.line((0, horizon, wide, horizon), fill=WHITE, width=max(2, tall // 60))
    elif kind == "street":
        _paint_street(draw, rng, wide, tall, horizon)
    return image


def _muted(rng: Random) -> Color:
    calm = pick(rng, (WHITE, STONE[0], STONE[3]))
    return mix(pick(rng, CLOTH + FUR), calm, rng.uniform(0.25, 0.75))


def _fade(wide: int, tall: int, top: Color, bottom: Color) -> Image.Image:
    """Pass from one color to another, from top to bottom."""
    mask = Image.linear_gradient("L").resize((wide, tall))
    return _blend(mask, bottom, top)


def _blend(mask: Image.Image, bright: Color, dark: Color) -> Image.Image:
    """Color a gray image: one color where it is bright, another where it is dark."""
    return Image.composite(
        Image.new("RGB", mask.size, bright), Image.new("RGB", mask.size, dark), mask
    )


def _draw_blotches(rng: Random, wide: int, tall: int) -> Image.Image:
    coarse = rng.randint(4, 24)
    mask = Image.frombytes("L", (coarse, coarse), rng.randbytes(coarse * coarse))
    first = _muted(rng)
    second = mix(first, _muted(rng), 0.5)
    return _blend(mask.resize((wide, tall), Image.Resampling.BICUBIC), first, second)


def _draw_tiles(rng: Random, wide: int, tall: int) -> Image.Image:
    """Draw checks or stripes."""
    first = _muted(rng)
    image = Image.new("RGB", (wide, tall), first)
    draw, second = ImageDraw.Draw(image), lighter(first, 0.3)
    step = max(wide, tall) // rng.randint(4, 10)
    checks = rng.random() < 0.5
    for y in range(0, tall, 2 * step):
        if not checks:
            draw.rectangle((0, y, wide, y + step), fill=second)
            continue
        for x in range(0, wide, 2 * step):
            draw.rectangle((x, y, x + step, y + step), fill=second)
            draw.rectangle((x + step, y + step, x + 2 * step, y + 2 * step), fill=second)
    return image


def _paint_room(
    draw: ImageDraw.ImageDraw, rng: Random, wide: int, tall: int, horizon: float
) -> None:
    wall, floor = _muted(rng), pick(rng, FUR[:2] + FUR[5:] + CLOTH)
    draw.rectangle((0, 0, wide, horizon), fill=wall)
    if rng.random() < 0.4:
        for x in range(0, wide, wide // rng.randint(6, 12)):
            draw.rectangle((x, 0, x + wide // 40, horizon), fill=lighter(wall, 0.25))
    draw.rectangle((0, horizon, wide, tall), fill=mix(floor, STONE[0], 0.35))
    draw.rectangle((0, horizon - tall // 40, wide, horizon), fill=lighter(wall, 0.6))


def _paint_grass(
    draw: ImageDraw.ImageDraw, rng: Random, wide: int, tall: int, horizon: float, sky: Color
) -> None:
    grass = pick(rng, _GRASS)
    x, size = wide * rng.random(), wide * rng.uniform(0.5, 0.9)
    hill = (x - size, horizon - size * 0.25, x + size, horizon + size)
    draw.ellipse(hill, fill=mix(grass, sky, 0.35))
    draw.rectangle((0, horizon, wide, tall), fill=grass)
    for _ in range(25):
        x, y = wide * rng.random(), rng.uniform(horizon, tall)
        draw.line((x, y, x + 3, y - tall / 30), fill=darker(grass, 0.2), width=3)


def _paint_street(
    draw: ImageDraw.ImageDraw, rng: Random, wide: int, tall: int, horizon: float
) -> None:
    left = -wide * 0.1 * rng.random()
    while left < wide:
        wall, across = _muted(rng), wide * rng.uniform(0.2, 0.45)
        top = horizon * rng.uniform(0.05, 0.5)
        draw.rectangle((left, top, left + across, horizon), fill=darker(wall, 0.1))
        for place in range(12):
            x = left + across * (0.12 + 0.3 * (place % 3))
            y = top + horizon * (0.06 + 0.2 * (place // 3))
            window = (x, y, x + across * 0.16, y + horizon * 0.1)
            draw.rectangle(window, fill=lighter(wall, 0.35))
        left += across
    road = pick(rng, STONE)
    draw.rectangle((0, horizon, wide, tall), fill=darker(road, 0.3))
    draw.rectangle((0, horizon, wide, horizon + tall * 0.06), fill=road)
