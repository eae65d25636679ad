"""The example policy: the environment it is trained in, and its export as a frozen TorchScript module."""
