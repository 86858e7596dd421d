"""Attackers: what of the originals can be learned from edited images, each a metric of the set."""
