"""Unpaired image translation: UNIT, MUNIT, DRIT, CycleGAN, StarGAN."""
