"""What we use of other packages beyond what they promise to keep, each with the reason why.

A new version may move any of it: ``tests/test_private_apis.py`` says for each what has moved, and what it broke. One
module a package, since ``--help`` imports Hydra alone.
"""
