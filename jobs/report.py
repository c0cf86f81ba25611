"""The HTML report as a Ray job: ray job submit --working-dir . -- python jobs/report.py s3://bucket/out"""

import sys

from zsad.cli import command

if __name__ == "__main__":
    command(["report", *sys.argv[1:]])
