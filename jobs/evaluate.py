"""Evaluation as a Ray job: ray job submit --working-dir . -- python jobs/evaluate.py s3://bucket/out"""

import sys

from zsad.cli import command

if __name__ == "__main__":
    command(["evaluate", *sys.argv[1:]])
