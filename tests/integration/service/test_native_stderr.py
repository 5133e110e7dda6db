"""What native code writes to standard error: lines of image decoders are dropped, those of crashes are not."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="without glibc, nothing is filtered")

FILTER = "from service.native_stderr import filter_native_stderr; filter_native_stderr()"
DECODE = """
from contextlib import suppress
from core.errors import ImageError
from core.images.decode import decode_image
from tests.support.sample_images import encode_image, png_with_bad_crc
jpeg = encode_image("JPEG")
for damaged in (png_with_bad_crc(b"IDAT"), jpeg[:-20] + b"\\xff\\xd9", jpeg[:-2] + bytes(100) + b"\\xff\\xd9"):
    with suppress(ImageError):
        decode_image(damaged)
"""
DOUBLE_FREE = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
pointer = libc.malloc(100)
libc.free(pointer)
libc.free(pointer)
"""
TERMINATE = "import ctypes; ctypes.CDLL('libstdc++.so.6')._ZSt9terminatev()"


def run(*programs: str) -> subprocess.CompletedProcess[str]:
    """Run programs one after another in one process; standard error ends when the filter has ended, too."""
    return subprocess.run([sys.executable, "-c", "\n".join(programs)], cwd=ROOT, capture_output=True, text=True, check=False)


def test_decoder_lines_are_dropped() -> None:
    unfiltered = run(DECODE).stderr
    assert "libpng error" in unfiltered and "Corrupt JPEG data" in unfiltered
    assert run(FILTER, DECODE).stderr == ""


def test_other_lines_of_c_libraries_pass() -> None:
    assert run(FILTER, "import ctypes; ctypes.CDLL(None).perror(b'driver')").stderr.startswith("driver: ")


@pytest.mark.parametrize(
    ("program", "message"), [(DOUBLE_FREE, "double free"), (TERMINATE, "terminate called")], ids=["glibc", "libstdc++"]
)
def test_reason_of_abort_is_written(program: str, message: str) -> None:
    aborted = run(FILTER, program)
    assert aborted.returncode == -signal.SIGABRT and message in aborted.stderr
