"""From labelled images to trained networks: a cache of what the networks see, fresh augmentation, one training loop."""
