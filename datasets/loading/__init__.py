"""From shards to batches: the order of samples, and the processes that decode them."""
