"""Export of a trained model to a file that can be used without this package: torch.export, ONNX or dense weights."""
