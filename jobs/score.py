"""Scoring as a Ray job: ray job submit --working-dir . -- python jobs/score.py --dataset visa --root s3://... ..."""

import sys

from zsad.cli import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
