"""Networks to compare the native backend with, and what PyTorch computes for them."""
