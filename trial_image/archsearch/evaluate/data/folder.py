"""Folders of image files, one folder a class, as ImageNet's are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from archsearch.errors import UserError
from archsearch.evaluate.data.base import Arrays, DataSet, Scaling, missing
from archsearch.evaluate.data.cache import cached_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
_TRAIN, _TEST = ("train",), ("val", "validation", "test")


class ImageFolder(DataSet):
    """`CLASS/*.jpg` (png, …) in the folder, or in `train` and, for a test set, `val` below it.

    Each image is scaled so that its shorter side is `size`, its middle is cut out, and it is kept as 3 × size × size
    bytes. A worker decodes once, to its cache on disk, and maps the result from there.
    """

    name: ClassVar[str] = "image-folder"
    needs_path: ClassVar[bool] = True

    def __init__(self, path: Path | None = None, size: int = 224) -> None:
        super().__init__(path)
        self.size = size

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @cached_property
    def names(self) -> list[str]:
        """Sorted names of the classes: the folders' names."""
        place = self._part(_TRAIN) or self._root()
        found = sorted(each.name for each in place.iterdir() if each.is_dir())
        if len(found) < 2:
            raise missing(self.name, f"a folder for each class in {place}", "give the folder above them as dataPath")
        return found

    @property
    def classes(self) -> int:
        return len(self.names)

    @property
    def class_names(self) -> list[str]:
        return self.names

    def load(self) -> Arrays:
        inputs, labels = self._read(self._part(_TRAIN) or self._root())
        test = self._part(_TEST)
        return Arrays(inputs, labels, *(self._read(test) if test is not None else (None, None)))

    def digest(self) -> str:
        """SHA-256 over the names and sizes of all images: reading and decoding them all would cost too much."""
        files = sorted(file for file in self._root().rglob("*") if file.suffix.lower() in _SUFFIXES)
        listing = "\n".join(f"{file.relative_to(self._root()).as_posix()} {file.stat().st_size}" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()

    def scaling(self, arrays: Arrays) -> Scaling:
        """ImageNet's constants, as is the custom; a pass over all images would cost too much."""
        return Scaling(self.divisor, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def _root(self) -> Path:
        if self.path is None or not self.path.is_dir():
            raise missing(self.name, self.path or "dataPath", "give the folder with a folder of images for each class")
        return self.path

    def _part(self, names: Sequence[str]) -> Path | None:
        return next((self._root() / name for name in names if (self._root() / name).is_dir()), None)

    def _read(self, place: Path) -> tuple[NDArray[Any], NDArray[Any]]:
        import numpy as np

        files = [
            (file, label)
            for label, name in enumerate(self.names)
            for file in sorted((place / name).glob("*"))
            if file.suffix.lower() in _SUFFIXES
        ]
        if not files:
            raise missing(self.name, f"images in {place}", f"put {', '.join(sorted(_SUFFIXES))} files there")
        shape = (len(files), *self.shape)
        images = cached_bytes(
            place, f"{self.size}:{len(files)}", shape, lambda array: self._decode([file for file, _ in files], array)
        )
        return images, np.array([label for _, label in files], dtype=np.int64)

    def _decode(self, files: Sequence[Path], images: NDArray[Any]) -> None:
        import numpy as np

        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise missing(
                self.name, "the package Pillow", "pip install Pillow (the extra archsearch[vision] brings it)"
            ) from error
        for index, file in enumerate(files):
            try:
                with Image.open(file) as image:
                    fitted = ImageOps.fit(image.convert("RGB"), (self.size, self.size))
            except OSError as error:
                raise UserError(f"{file} is no image that can be read: {error}; remove or replace it") from error
            images[index] = np.asarray(fitted).transpose(2, 0, 1)
