"""Several images in one request: names of files that are safe to use, and the response that holds all results."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import PurePosixPath
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from service.inference.pipeline import EncodedImage

MAX_STEM_BYTES, MAX_SUFFIX = 200, 10  # File systems allow names of 255 bytes.
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg"}
READABLE = 0o644  # Without permissions in the archive, unpacked files could not be read.


def sanitize_file_name(sent: str) -> str:
    """Return the last component of a file name that a client sent, without what can harm a terminal or a file system.

    Only printable characters are kept, so no line breaks and no marks that reverse the direction of text. Those that Windows
    does not allow become underscores.
    """
    name = sent.replace("\\", "/").rpartition("/")[2]
    name = "".join("_" if char in '<>:"|?*' else char for char in name if char.isprintable()).strip(". ")
    path = PurePosixPath(name or "image")
    return path.stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore") + path.suffix[:MAX_SUFFIX]


def describe_position(number: int, total: int) -> str:
    """Return which image of a request is meant, for an error message; `number` starts at 1."""
    return f"image {number} of {total}"


class BatchResponse:
    """The results of several images as one file, in the order of the images.

    It is a ZIP archive of images that are stored without compression, or a JSON array of the descriptions of the masks, each
    with the key `file`.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._buffer = io.BytesIO()
        self._taken: set[str] = set()

    def add(self, file_name: str, result: EncodedImage) -> None:
        """Append the result of an image, named after its sanitized file name.

        Entries of an archive have unique names: `a.jpg` and `a.png` become `a.png` and `a-2.png`.
        """
        if self.as_json:
            self._buffer.write(b"," if self._buffer.tell() else b"[")
            # The result is a JSON object, to whose beginning the name is added.
            self._buffer.write(b'{"file":' + json.dumps(file_name).encode() + b"," + result.content[1:])
            return
        entry = ZipInfo(self._unique_name(PurePosixPath(file_name).stem, SUFFIXES[result.media_type]))
        entry.external_attr = READABLE << 16
        with ZipFile(self._buffer, "a", ZIP_STORED) as archive:  # It is valid after each image, so a request may end anywhere.
            archive.writestr(entry, result.content)

    def _unique_name(self, stem: str, suffix: str) -> str:
        """Return a name that no earlier entry has, also on file systems that ignore case or the Unicode form."""
        name, number = f"{stem}{suffix}", 1
        while (key := unicodedata.normalize("NFC", name).casefold()) in self._taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        self._taken.add(key)
        return name

    def finish(self) -> EncodedImage:
        """Return the response; nothing can be added afterwards."""
        if self.as_json:
            self._buffer.write(b"]")
        return EncodedImage(self._buffer.getvalue(), "application/json" if self.as_json else "application/zip")
