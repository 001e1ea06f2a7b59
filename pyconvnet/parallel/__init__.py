"""More than one device: the split of a network, streams and feeding, data parallelism over processes."""
