"""Run the program: `python -m imgsearch`."""

from imgsearch.cli import run

if __name__ == "__main__":
    run()
