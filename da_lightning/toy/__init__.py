"""Procedural domains: data that needs no download."""
