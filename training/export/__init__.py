"""Exports of a trained checkpoint: fp16 weights, OpenVINO models and ONNX files. No flags, no terminal output but progress."""

import core.backends  # noqa: F401 -- disables the telemetry of OpenVINO and NNCF, before they are imported
