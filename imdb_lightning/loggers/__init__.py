"""TensorBoard, and the figures of a run."""
