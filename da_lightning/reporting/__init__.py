"""The page ``report.html``: what runs left on disk, compared and drawn; :mod:`da_lightning.report` is its door."""
