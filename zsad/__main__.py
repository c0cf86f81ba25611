"""``python -m zsad`` is ``zsad``."""

from zsad.cli import command

if __name__ == "__main__":
    command()
