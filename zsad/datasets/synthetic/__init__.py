"""Procedurally rendered inspection photographs with exact truth, in VisA's on-disk layout."""

from zsad.datasets.synthetic.defects import DEFECTS
from zsad.datasets.synthetic.rendering import KINDS_A, KINDS_B, Sample, kind_named, render
from zsad.datasets.synthetic.writing import sample_rng, write_synthetic_visa

__all__ = ["DEFECTS", "KINDS_A", "KINDS_B", "Sample", "kind_named", "render", "sample_rng", "write_synthetic_visa"]
