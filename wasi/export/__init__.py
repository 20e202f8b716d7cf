"""A trained model as a file that needs nothing of this package: torch.export, ONNX or dense weights."""
