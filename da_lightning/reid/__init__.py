"""Person re-identification across camera networks: source-only, SPGAN, camera style, ECN."""
