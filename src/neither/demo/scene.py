"""Scenes: the canvas, its backdrop with clutter, and the finish, blind to what they will show."""

from dataclasses import dataclass
from io import BytesIO
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from neither.demo.backdrop import BACKDROPS, OUTDOORS, draw_backdrop
from neither.demo.clutter import clutter_box, draw_cloud, draw_clutter, draw_sun, draw_wall_clutter
from neither.demo.sketch import Sketch

SUPERSAMPLE = 2  # drawn this much larger, then averaged down: smooth edges


@dataclass
class Scene:
    """A canvas with a backdrop, `SUPERSAMPLE` times as large as its image will be.

    Attributes:
        image: RGB.
        horizon: Where the ground begins, in pixels from the top.
    """

    image: Image.Image
    horizon: float


def choose_size(rng: Random) -> tuple[int, int]:
    """Draw width and height by lot, 80 to 240 pixels each: square, portrait or landscape."""
    long = rng.randint(128, 240)
    short = max(80, round(long / rng.uniform(1.1, 1.45)))
    return rng.choice(((short, short), (long, long), (short, long), (long, short)))


def set_scene(rng: Random, width: int, height: int, num_clutter: int) -> Scene:
    """Draw a backdrop, and things on it, for an image of so many pixels."""
    wide, tall = width * SUPERSAMPLE, height * SUPERSAMPLE
    horizon = tall * rng.uniform(0.45, 0.75)
    kind = rng.choice(BACKDROPS)
    image = draw_backdrop(rng, kind, wide, tall, horizon)
    above: list[Sketch] = []
    if kind in OUTDOORS:
        above = [draw_sun()] if rng.random() < 0.4 else []
        above += [draw_cloud(rng) for _ in range(rng.choice((0, 0, 1, 1, 2)))]
    elif kind == "room" and rng.random() < 0.6:
        above = [draw_wall_clutter(rng)]
    for sketch in above:
        x, y = wide * rng.random(), horizon * rng.uniform(0.1, 0.55)
        half = min(wide, tall) * rng.uniform(0.07, 0.17)
        sketch.paint(image, (x - half, y - half, x + half, y + half))
    boxes = [clutter_box(rng, wide, tall, horizon) for _ in range(num_clutter)]
    for box in sorted(boxes, key=lambda box: box[3]):  # nearer things hide those behind
        draw_clutter(rng).paint(image, box)
    return Scene(image, horizon)


def finish(rng: Random, scene: Scene) -> tuple[bytes, str]:
    """Average the scene down, tint and grain it, and encode it.

    Returns:
        The file's bytes and its suffix, `.jpg` or `.png`.
    """
    image = tone(rng, scene)
    stream = BytesIO()
    if rng.random() < 0.5:
        image.save(stream, "JPEG", quality=rng.randint(60, 95))
        return stream.getvalue(), ".jpg"
    image.save(stream, "PNG", compress_level=4)
    return stream.getvalue(), ".png"


def tone(rng: Random, scene: Scene) -> Image.Image:
    """Average the scene down to the image's size, in a light and with a grain by lot."""
    image = scene.image.reduce(SUPERSAMPLE)
    light = rng.uniform(0.85, 1.12)
    lookup: list[int] = []
    for _ in range(3):
        gain, lift = light * rng.uniform(0.96, 1.04), rng.uniform(-4, 4)
        lookup += [min(255, max(0, round(level * gain + lift))) for level in range(256)]
    image = image.point(lookup)
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    if rng.random() < 0.25:
        image = _grain(rng, image, rng.randint(4, 14))
    return image


def _grain(rng: Random, image: Image.Image, strength: int) -> Image.Image:
    pixels = np.asarray(image).astype(np.int16)
    noise = np.frombuffer(rng.randbytes(pixels.size), np.uint8).reshape(pixels.shape)
    grainy = pixels + noise.astype(np.int16) * strength // 128 - strength
    return Image.fromarray(grainy.clip(0, 255).astype(np.uint8))
