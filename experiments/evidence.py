"""Makes every figure and table again from the committed CSVs, and fills the tables into the documents.

    ratpg reproduce evidence

Nothing is trained or measured. A table of a document belongs to the CSV that the comment above it names,
``<!-- results/NAME/FILE.csv -->``.
"""

import argparse
import re
from pathlib import Path

import ablation
import atari
import gaussian
import identity
import kaczmarz
import mujoco_
import mujoco_long
import mujoco_paper
import procgen
import shared_critic
import trainings
from report import markdown, read_csv

DOCUMENTS = (Path("docs/evidence.md"), Path("README.md"))
MARKED = re.compile(r"<!-- (results/\S+\.csv) -->\n+(?:\|.*\n)*\n*")


def filled(text: str, root: Path = Path()) -> str:
    """A document with the rows that its CSVs hold, which are found below ``root``."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n\n{markdown(read_csv(root / match[1]))}\n"

    return MARKED.sub(table, text)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for experiment in (gaussian, kaczmarz, identity):
        experiment.draw()
    trainings.write("ablation", ablation.runs(), ablation.draw)
    trainings.write("mujoco", mujoco_.RUNS, mujoco_.draw)
    trainings.write("mujoco_paper", mujoco_paper.RUNS, mujoco_paper.draw)
    trainings.write("mujoco_long", mujoco_long.RUNS, mujoco_long.draw)
    trainings.write("procgen", procgen.RUNS)
    trainings.write("atari", atari.RUNS)
    trainings.write("shared_critic", shared_critic.RUNS)
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text()))
