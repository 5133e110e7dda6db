"""Decoding: what is taken, how it comes out, and one clean error for the rest."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import ImageError, InputError
from core.images.decode import decode_photo, read_label, read_photo


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def code(data: bytes, **limits: int) -> str:
    with pytest.raises(ImageError) as error:
        decode_photo(data, **limits)
    return error.value.code


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_lossless_pictures_come_out_as_they_went_in(photo: np.ndarray, kind: str) -> None:
    assert np.array_equal(decode_photo(encoded(Image.fromarray(photo), kind, lossless=True)), photo)


def test_jpeg_is_rgb_and_not_bgr() -> None:
    red = np.zeros((32, 32, 3), np.uint8) + np.array([250, 10, 20], np.uint8)
    assert decode_photo(encoded(Image.fromarray(red), "JPEG"))[16, 16, 0] > 200


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_every_png_mode_becomes_what_pillow_says(photo: np.ndarray, mode: str) -> None:
    picture = Image.fromarray(photo).convert(mode)
    assert np.array_equal(decode_photo(encoded(picture, "PNG")), np.asarray(picture.convert("RGB")))


def test_cmyk_jpeg_is_within_a_step_of_pillow(photo: np.ndarray) -> None:
    data = encoded(Image.fromarray(photo).convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(decode_photo(data).astype(int) - expected).max() <= 3


def test_sixteen_bit_grey_is_rescaled_and_not_saturated() -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    assert np.array_equal(decode_photo(encoded(Image.fromarray(values), "PNG"))[..., 0], values >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_an_upright_picture(orientation: int) -> None:
    picture = Image.new("RGB", (40, 24), "white")
    picture.paste("black", (0, 0, 12, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, "PNG", exif=exif)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode_photo(data), expected)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PPM"])
def test_other_formats_are_not_taken(photo: np.ndarray, kind: str) -> None:
    assert code(encoded(Image.fromarray(photo), kind)) == "not_an_image"


@pytest.mark.parametrize("data", [b"", b"x", b"<html></html>", b"%PDF-1.7", b"\0\0\0\x18ftypheic", b"<svg/>"])
def test_what_is_no_picture_is_told(data: bytes) -> None:
    assert code(data) == "not_an_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_picture_is_broken(photo: np.ndarray, kind: str, kept: float) -> None:
    data = encoded(Image.fromarray(photo), kind)
    assert code(data[: max(12, int(len(data) * kept))]) == "broken_image"


def test_magic_alone_is_broken() -> None:
    assert code(b"\x89PNG\r\n\x1a\n") == "broken_image"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_told(photo: np.ndarray, kind: str) -> None:
    frames = [Image.fromarray(photo), Image.fromarray(photo[::-1].copy())]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert code(data) == "animated_image"


def test_a_huge_png_is_refused_from_its_header() -> None:
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IEND\xaeB`\x82"
    )
    assert code(data) == "too_large"


def test_a_long_side_is_refused(photo: np.ndarray) -> None:
    assert code(encoded(Image.fromarray(photo), "PNG"), max_side=100) == "too_large"


def test_an_error_of_a_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "street.png"
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"street\.png"):
        read_photo(path)


def test_labels_keep_palette_indices_and_sixteen_bits(tmp_path: Path) -> None:
    indices = np.arange(64, dtype=np.uint8).reshape(8, 8)
    palette = Image.fromarray(indices, "P")
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.save(tmp_path / "p.png")
    Image.fromarray(indices.astype(np.uint16) * 1000).save(tmp_path / "i.png")
    assert np.array_equal(read_label(tmp_path / "p.png"), indices)
    assert np.array_equal(read_label(tmp_path / "i.png"), indices.astype(np.uint16) * 1000)


def test_a_label_of_colours_is_told(tmp_path: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match="mode RGB; expected one channel"):
        read_label(tmp_path / "rgb.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_grey_label_of_few_bits_is_told_and_a_palette_of_few_is_not(tmp_path: Path, bits: int) -> None:
    """White is the highest value in one, and 255 to whoever made the file smaller."""
    values = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2**bits
    picture = Image.fromarray(values)
    picture.putpalette(range(48))
    picture.save(tmp_path / "palette.png", bits=bits)
    assert np.array_equal(read_label(tmp_path / "palette.png"), values)
    data = (tmp_path / "palette.png").read_bytes()
    header = data[12:25] + b"\0" + data[26:29]  # the same, said to be grey
    grey = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    (tmp_path / "grey.png").write_bytes(grey)
    with pytest.raises(InputError, match=rf"of {bits} bit a pixel, whose white may mean {2**bits - 1} or 255; save it with 8"):
        read_label(tmp_path / "grey.png")
