"""Semantic segmentation: labels for a target domain that has none."""
