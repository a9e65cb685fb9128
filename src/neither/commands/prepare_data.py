"""`prepare_data.py demo --output-dir DIR`."""

import argparse
from pathlib import Path

from neither.commands.door import pass_through
from neither.terminal import progress, show


def main() -> int:
    """Prepare images; return the exit code."""
    parser = argparse.ArgumentParser(description="Make a folder of images to train on.")
    sources = parser.add_subparsers(dest="source", required=True)
    demo = sources.add_parser(
        "demo", help="draw dogs, humans and neither", description="Draw the demo images."
    )
    demo.add_argument("--output-dir", type=Path, required=True, help="the folder to make")
    arguments = parser.parse_args()
    return pass_through(lambda: _draw(arguments.output_dir))


def _draw(output_dir: Path) -> int:
    from neither.data.demo.folder import draw_demo

    with progress("drawing", 0) as bar:
        draw_demo(output_dir, report=bar.reach)
    show(f"demo images: {output_dir}")
    return 0
