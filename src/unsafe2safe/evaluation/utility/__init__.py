"""What models trained on each row's images are worth on real images that no training saw."""
