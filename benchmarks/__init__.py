"""Measurements: each prints what it measured and on what; none is a test."""

import os

# Read when NumPy and torch are imported: what is measured is one thread.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
