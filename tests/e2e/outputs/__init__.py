"""Tests of slow outputs: models exported to OpenVINO and ONNX, videos, and the report pages of a comparison."""
