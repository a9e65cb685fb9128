"""A sketch: shaded polygons in a plane of complex numbers, painted into any box of an image."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from neither.demo.palette import Color, darker

Polygon = NDArray[np.complex128]  # x + y*1j, y pointing down
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels

_CIRCLE = np.exp(2j * np.pi * np.arange(24) / 24)
_HALF_CIRCLE = np.exp(1j * np.pi * np.linspace(0.5, 1.5, 8))
_LIGHT = cmath.rect(1.0, math.radians(-125))  # from the upper left


def _blend_weights(num_steps: int) -> NDArray[np.float64]:
    """Catmull-Rom weights of the four points around each of `num_steps` places of a segment."""
    t = np.arange(num_steps) / num_steps
    weights: NDArray[np.float64] = 0.5 * np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    )
    return weights


_SMOOTH = _blend_weights(5)


def hang(degrees: float, length: float) -> complex:
    """Return the way from a joint: 0 degrees hangs down, 90 points to the right."""
    return cmath.rect(length, math.radians(90 - degrees))


def oval(center: complex, rx: float, ry: float | None = None, tilt: float = 0.0) -> Polygon:
    """Draw an ellipse of radii `rx`, `ry` (a circle without `ry`), turned by `tilt` degrees."""
    ellipse = rx * _CIRCLE.real + 1j * (rx if ry is None else ry) * _CIRCLE.imag
    turned: Polygon = ellipse * cmath.rect(1.0, math.radians(tilt)) + center
    return turned


def corners(*points: complex) -> Polygon:
    """Draw a polygon with straight sides."""
    return np.array(points, dtype=np.complex128)


def rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Draw an upright rectangle."""
    return corners(left + top * 1j, right + top * 1j, right + bottom * 1j, left + bottom * 1j)


def blob(*points: complex) -> Polygon:
    """Draw a smooth closed curve through the points (Catmull-Rom)."""
    knots = np.array(points, dtype=np.complex128)
    around = np.stack([np.roll(knots, shift) for shift in (1, 0, -1, -2)])
    smooth: Polygon = np.einsum("kn,ks->ns", around, _SMOOTH).ravel()
    return smooth


def symmetric(*points: complex) -> Polygon:
    """Draw a smooth closed curve from its points at x >= 0, clockwise, mirrored about x = 0."""
    return blob(*points, *(-point.conjugate() for point in reversed(points) if point.real))


def capsule(start: complex, end: complex, start_radius: float, end_radius: float) -> Polygon:
    """Draw a sausage between two points, as thick at each as its radius says."""
    way = end - start
    turn = way / abs(way) if way else 1.0
    return np.concatenate(
        [start + start_radius * turn * _HALF_CIRCLE, end - end_radius * turn * _HALF_CIRCLE]
    )


def limb(*joints: complex, thick: float, thin: float) -> list[Polygon]:
    """Draw a chain of sausages through the joints, from radius `thick` down to `thin`."""
    radii = np.linspace(thick, thin, len(joints))
    return [
        capsule(joints[i], joints[i + 1], radii[i], radii[i + 1]) for i in range(len(joints) - 1)
    ]


def mirrored(part: Polygon) -> Polygon:
    """Flip a polygon from left to right about x = 0."""
    flipped: Polygon = -part.conj()
    return flipped


@dataclass(frozen=True)
class Shape:
    """Polygons of one color that fraction one outline, where `solid`; else flat marks."""

    fill: Color
    parts: list[Polygon]
    solid: bool


@dataclass
class Sketch:
    """What to draw, back to front, in units of its own.

    Attributes:
        shapes: Painted in this order.
        grounded: Whether it stands on the ground, and so casts a shadow there.
        cut: Whether it is cut off below, as a portrait is, and so belongs on an image's edge.
    """

    shapes: list[Shape] = field(default_factory=list)
    grounded: bool = True
    cut: bool = False

    def add(self, fill: Color, *parts: Polygon | list[Polygon]) -> None:
        """Add a shaded body with an outline around all its parts together."""
        self.shapes.append(Shape(fill, _flatten(parts), solid=True))

    def mark(self, fill: Color, *parts: Polygon | list[Polygon]) -> None:
        """Add something flat without an outline: an eye, a stripe."""
        self.shapes.append(Shape(fill, _flatten(parts), solid=False))

    def include(self, other: Sketch, at: complex, scale: float = 1.0, tilt: float = 0.0) -> None:
        """Add another sketch, its origin put `at` a point, turned by `tilt` degrees."""
        turn = cmath.rect(scale, math.radians(tilt))
        for shape in other.shapes:
            parts = [part * turn + at for part in shape.parts]
            self.shapes.append(Shape(shape.fill, parts, shape.solid))

    def size(self) -> tuple[float, float]:
        """Measure width and height."""
        points = np.concatenate([part for shape in self.shapes for part in shape.parts])
        return float(np.ptp(points.real)), float(np.ptp(points.imag))

    def turned(self, mirror: bool, tilt: float) -> Sketch:
        """Return the sketch flipped from left to right, then turned by `tilt` degrees."""
        turn = cmath.rect(1.0, math.radians(tilt))
        shapes = [
            Shape(
                shape.fill,
                [(mirrored(part) if mirror else part) * turn for part in shape.parts],
                shape.solid,
            )
            for shape in self.shapes
        ]
        return Sketch(shapes, self.grounded, self.cut)

    def paint(self, image: Image.Image, box: Box, outline: float = 1.0) -> None:
        """Paint into a box of an RGB image, as large as fits, centred, on the box's bottom.

        Args:
            image: Painted on in place.
            box: In pixels; may reach over the image's edge.
            outline: Thickness of the outline, 1 being the usual.
        """
        points = np.concatenate([part for shape in self.shapes for part in shape.parts])
        width, height = np.ptp(points.real), np.ptp(points.imag)
        left, top, right, bottom = box
        scale = min((right - left) / width, (bottom - top) / height)
        center = (points.real.min() + points.real.max()) / 2
        offset = (left + right) / 2 - center * scale + 1j * (bottom - points.imag.max() * scale)
        edge = outline * (1.2 + 0.006 * scale * max(width, height))
        if self.grounded:
            _paint_shadow(image, (left + right) / 2, bottom, width * scale / 2)
        draw = ImageDraw.Draw(image)
        for shape in self.shapes:
            _paint_shape(draw, shape, scale, offset, edge)


def _flatten(parts: tuple[Polygon | list[Polygon], ...]) -> list[Polygon]:
    return [one for part in parts for one in (part if isinstance(part, list) else [part])]


def _paint_shadow(image: Image.Image, x: float, y: float, radius: float) -> None:
    draw = ImageDraw.Draw(image, "RGBA")
    for fraction in (1.0, 0.8):
        across, down = radius * fraction * 1.05, radius * fraction * 0.16
        draw.ellipse((x - across, y - down, x + across, y + down), fill=(20, 16, 40, 46))


def _paint_shape(
    draw: ImageDraw.ImageDraw, shape: Shape, scale: float, offset: complex, edge: float
) -> None:
    """Paint all edges, then all shades, then all lights, so that parts melt into one body."""
    parts = [part * scale + offset for part in shape.parts]
    if not shape.solid:
        for part in parts:
            _fill(draw, part, shape.fill)
        return
    outward = []
    for part in parts:
        after = np.roll(part, -1)
        area = 0.5 * float((part.conj() * after).imag.sum())
        along = after - np.roll(part, 1)
        normal = along * (-1j * math.copysign(1.0, area)) / np.maximum(np.abs(along), 1e-9)
        thickness = abs(area) / float(np.abs(after - part).sum())
        outward.append((normal, 0.3 * thickness))
        _fill(draw, part + edge * normal, darker(shape.fill, 0.62))
    for part in parts:
        _fill(draw, part, darker(shape.fill, 0.2))
    for part, (normal, depth) in zip(parts, outward, strict=True):
        _fill(draw, part - depth * (normal - 0.9 * _LIGHT), shape.fill)


def _fill(draw: ImageDraw.ImageDraw, part: Polygon, fill: Color) -> None:
    draw.polygon(part.view(np.float64).tolist(), fill=fill)
