"""The kinds of text and numbers that a config holds, each with its own check."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def _check_name(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not text:
        raise ValueError("want printable text without spaces around it")
    return text


def _check_class_name(text: str) -> str:
    _check_name(text)
    if re.search(r'[/\\:*?"<>|]', text) or text.startswith("."):
        raise ValueError('a class is a folder: no / \\ : * ? " < > | in its name, no dot before it')
    if text in sum(SPLIT_FOLDERS.values(), ()):
        raise ValueError("this is the name of a split's folder")
    if text == "unsure":
        raise ValueError("this is what a decision is called that is left to a person")
    return text


def _check_root(text: str) -> str:
    try:
        Path(_check_name(text)).expanduser()
    except RuntimeError as error:
        raise ValueError("no such user's home folder") from error
    return text


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


def _check_network(text: str) -> str:
    # Which ones torchvision has, only torchvision knows, which no config waits for.
    if not re.fullmatch("[a-z][a-z0-9_]*", text):
        raise ValueError("want small_cnn, softmax_regression or torchvision's name of a network")
    return text


Root = Annotated[str, AfterValidator(_check_root)]
Text = Annotated[str, AfterValidator(_check_name)]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_check_pattern)]
NetworkName = Annotated[str, AfterValidator(_check_network)]
ClassName = Annotated[str, AfterValidator(_check_class_name)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
