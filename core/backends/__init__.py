"""Backends: what runs a checkpoint's network (PyTorch, OpenVINO). No preprocessing and no choice of output."""
