"""What a run records: run directory, history, curves, TensorBoard, summary."""
