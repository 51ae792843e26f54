"""Image files to batches: decoding, image stores, order, normalization."""
