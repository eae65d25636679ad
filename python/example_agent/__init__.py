"""The example policy: its environment, its training, and its export as a frozen TorchScript module."""
