"""Source and target loaders that all families share: order, batches, checks of folders."""
