"""Backends: what runs a checkpoint's network (PyTorch, OpenVINO, ONNX Runtime). No preprocessing and no choice of output."""
