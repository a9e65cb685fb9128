"""A small dataset in COCO's published form: instances_*.json and a folder of images."""

import json
from pathlib import Path
from typing import Any

from images import draw_shape

CATEGORIES = {"person": 1, "dog": 18, "teapot": 47}


class CocoSet:
    """The annotations; ids of images and categories have gaps, as the real ones do."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {
            "info": {"year": 2017}, "licenses": [{"id": 1, "name": "a license"}],
            "images": [], "annotations": [],
            "categories": [{"supercategory": name, "id": number, "name": name}
                           for name, number in CATEGORIES.items()],
        }  # fmt: skip

    def add_image(self, name: str, width: float, height: float) -> int:
        """Add an image; return its id."""
        number = 1 + 7 * len(self.document["images"])
        self.document["images"].append({
            "license": 1, "file_name": name, "coco_url": f"https://example.org/{number}",
            "height": height, "width": width, "id": number,
        })  # fmt: skip
        return number

    def add_box(
        self, image: int, category: str, box: tuple[float, float, float, float], crowd: bool = False
    ) -> None:
        """Add an annotation; a crowd's outline is run lengths, any other polygons."""
        outline: object = [[*box, 0.5, 0.5]]
        self.document["annotations"].append({
            "segmentation": {"counts": [10, 5, 3], "size": [100, 100]} if crowd else outline,
            "area": 0.6 * box[2] * box[3], "iscrowd": int(crowd), "image_id": image,
            "bbox": list(box), "category_id": CATEGORIES[category],
            "id": 900_000 + len(self.document["annotations"]),
        })  # fmt: skip

    def content(self) -> bytes:
        return json.dumps(self.document).encode()

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the file and every image it lists; return the file and the image folder."""
        annotations, images = folder / "instances.json", folder / "images"
        images.mkdir(parents=True, exist_ok=True)
        annotations.write_bytes(self.content())
        for number, image in enumerate(self.document["images"]):
            path = images / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_shape("dog", number).save(path, "JPEG")
        return annotations, images
