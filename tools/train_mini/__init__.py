"""Training of the bundled mini models on kinds A of the synthetic set: ``python -m tools.train_mini``."""
