"""One step per foundation model: its model plus the method's functions over a batch of images."""
