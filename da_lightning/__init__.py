"""Unsupervised domain adaptation for images: PyTorch Lightning modules, composed by Hydra."""

__version__ = "0.1.0"
