"""Filter of standard error: drops the lines of image decoders, so that the log shows those of crashes.

libpng and libjpeg write a line for each fault of an uploaded image. They write to the stream `stderr` of the C library, which
becomes a pipe to the filter. The file descriptor stays as it is: Python, std::cerr and glibc, when it aborts the process, write
to it directly. Run as a program, this file is the filter: a process of its own, because it must outlive an aborted one, whose
last message (of std::terminate, for example) may have to pass it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import sys

# All warnings of libjpeg (its errors are exceptions of OpenCV), and the prefixes of libpng. libpng writes the line break
# separately, so that two threads can write two messages into one line and an empty line after it.
DECODER_LINE = re.compile(
    rb"libpng (warning|error): |Corrupt JPEG data: |Premature end of JPEG file|Invalid SOS parameters for sequential JPEG"
    rb"|Inconsistent progression sequence for component|Unknown Adobe color transform code|Warning: unknown JFIF revision"
    rb"|Application transferred too many scanlines|\s*$"
)
LINE_BUFFERED = 1  # _IOLBF of stdio.h


def filter_native_stderr() -> None:
    """Drop what image decoders write to standard error; without glibc, do nothing."""
    if platform.libc_ver()[0] != "glibc":
        return  # Elsewhere, `stderr` may be a constant.
    input_end, output_end = os.pipe()
    # In a process group of its own, the filter does not receive the Ctrl-C that stops this process.
    command, redirect = [sys.executable, "-I", "-S", __file__], (os.POSIX_SPAWN_DUP2, input_end, 0)
    os.posix_spawn(sys.executable, command, os.environ, file_actions=[redirect], setpgroup=0)
    os.close(input_end)
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fdopen(output_end, b"w"))  # closed at the end of this process, which ends the filter
    libc.setvbuf(stream, None, LINE_BUFFERED, ctypes.c_size_t(0))
    ctypes.c_void_p.in_dll(libc, "stderr").value = stream.value


def main() -> None:
    """Copy standard input to standard error, line by line, without the lines of decoders."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Service managers send it to all processes of a service.
    for line in sys.stdin.buffer:
        if not DECODER_LINE.match(line):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    main()
