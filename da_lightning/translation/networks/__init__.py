"""Generators, encoders and discriminators; images are float32 RGB [B, 3, H, W] in [-1, 1]."""
