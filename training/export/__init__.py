"""Exports of a trained checkpoint: fp16 weights, and OpenVINO models. No flags, no terminal output but progress."""

import core.backends  # noqa: F401 -- disables the telemetry of OpenVINO and NNCF, before they are imported
