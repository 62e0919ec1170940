"""One forward and one backward pass over the batches of all tasks."""
