"""Makes the cases that compare the native backend with PyTorch: networks, inputs and PyTorch's results."""
