"""Command `prepare_data demo|cifar|coco --output-dir DIR ...`."""

import argparse
from pathlib import Path

from neither.cli.command import check_installation, run_command
from neither.runtime.console import print_line, print_table, progress_bar
from neither.runtime.files import cache_folder


def main() -> int:
    """Prepare images; return the exit code."""
    parser = argparse.ArgumentParser(description="Make a folder of images to train on.")
    sources = parser.add_subparsers(dest="source", required=True)
    demo = sources.add_parser(
        "demo", help="draw dogs, humans and neither", description="Draw the demo images."
    )
    cifar = sources.add_parser(
        "cifar",
        help="download CIFAR-10 and CIFAR-100 and sort them into classes",
        description="Download CIFAR-10 and CIFAR-100 (340 MB, kept in ~/.cache/neither/cifar) and "
        "write dogs, humans and neither of both as PNG. 20 kinds are in no split but in the folder "
        "unseen, for evaluate.py --unseen.",
    )
    coco = sources.add_parser(
        "coco",
        help="sort the images of a COCO-style set into classes",
        description="Sort the images of a COCO-style set: a person and no dog, a dog and no "
        "person, neither. Images with both are left out and counted, as are those in which all "
        "are crowds or smaller than 4 % of the image.",
        epilog="For train2017 and val2017 run it twice, with --output-dir X/train and X/val; then "
        "data.root=X trains on the one and validates on the other. Training splits a single folder "
        "itself.",
    )
    for each in (demo, cifar, coco):
        each.add_argument("--output-dir", type=Path, required=True, help="the folder to make")
    coco.add_argument(
        "--annotations", type=Path, required=True, help="such as instances_train2017.json"
    )
    coco.add_argument("--images", type=Path, required=True, help="the folder of its images")
    coco.add_argument("--copy", action="store_true", help="copy the images instead of linking them")
    arguments = parser.parse_args()
    prepare = {"demo": _prepare_demo, "cifar": _prepare_cifar, "coco": _prepare_coco}
    return run_command(lambda: prepare[arguments.source](arguments))


def _prepare_demo(arguments: argparse.Namespace) -> int:
    from neither.demo.folder import draw_demo

    with progress_bar("drawing", 0) as bar:
        draw_demo(arguments.output_dir, report=bar.update)
    print_line(f"demo images: {arguments.output_dir}")
    return 0


def _prepare_cifar(arguments: argparse.Namespace) -> int:
    check_installation()
    from neither.datasets.cifar import fetch_sets, is_prepared, write_images

    if not is_prepared(arguments.output_dir):
        write_images(fetch_sets(cache_folder() / "cifar"), arguments.output_dir)
    print_line(f"CIFAR images: {arguments.output_dir}")
    return 0


def _prepare_coco(arguments: argparse.Namespace) -> int:
    from neither.datasets.coco import sort_images

    paths = arguments.annotations, arguments.images, arguments.output_dir
    counts = sort_images(*paths, arguments.copy)
    if counts is not None:
        rows = [(name, f"{num:,}") for name, num in counts.items()]
        print_table("images", ["class", "images"], rows)
    print_line(f"COCO images: {arguments.output_dir}")
    return 0
