"""The images that were found, in columns, and what a user should know of how they were found."""

from dataclasses import dataclass, field
from pathlib import Path

from neither.data.folder import Identity, Listing, list_images
from neither.terminal import printable


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image that was found.

    Attributes:
        path: below the root it was found under, with / between parts.
        label: the folder it lies in: a class name, a foreign folder's name, or empty.
        split: train, val, test, or empty where none is known.
    """

    path: str
    label: str
    split: str = ""


@dataclass
class Found:
    """Images and what a user should know about how they were found.

    In columns, as there may be a hundred thousand: the strings of labels and splits are shared.

    Attributes:
        root: what the paths lie below.
        source: the folder or manifest that names the images.
        paths: of the images, with / between parts.
        labels: the class, or the name of a foreign folder, or empty, of each.
        splits: train, val, test, or empty, of each.
        notes: what is worth telling.
        refused: folders that could not be read.
        listing: what else lies there, all folders together.
    """

    root: Path
    source: Path
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    listing: Listing = field(default_factory=Listing)

    def add(self, paths: list[str], label: str, split: str = "") -> None:
        """Add images that share a label and a split."""
        self.paths += paths
        self.labels += [label] * len(paths)
        self.splits += [split] * len(paths)

    def leave_out(self, folder: Path) -> None:
        """Leave out the images below a folder inside the root."""
        root, below = self.root.resolve(), folder.resolve()
        if root not in below.parents:
            return
        prefix = f"{below.relative_to(root).as_posix()}/"
        kept = [place for place, path in enumerate(self.paths) if not path.startswith(prefix)]
        for column in (self.paths, self.labels, self.splits):
            column[:] = [column[place] for place in kept]

    def search(
        self, folder: Path, entered: set[Identity] | None = None, prefix: str = ""
    ) -> list[str]:
        """List the images below a folder, and note what else lies there.

        Args:
            folder: where to look.
            entered: see `list_images`.
            prefix: what each path begins with.

        Raises:
            DataError: if the folder cannot be read.
        """
        listing = list_images(folder, entered, prefix)
        self.refused += listing.refused
        self.listing.add(listing)
        if listing.num_other:
            self.notes.append(
                f"{printable(folder)}: {listing.num_other:,} other files are not read"
            )
        if listing.odd:
            self.notes.append(
                f"{printable(folder)}: {len(listing.odd):,} things named like images are none, "
                f"among them {listing.odd[0]}"
            )
        return listing.paths

    @property
    def images(self) -> list[ImageFile]:
        """The images one by one."""
        return list(map(ImageFile, self.paths, self.labels, self.splits))
