"""Tests of slow outputs, each as a file that another program reads: models exported to OpenVINO and ONNX, and videos."""
