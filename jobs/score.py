"""Scoring as a Ray job: ray job submit --working-dir . -- python jobs/score.py --dataset visa --root s3://... ..."""

import sys

from zsad.cli import command

if __name__ == "__main__":
    command(["score", *sys.argv[1:]])
