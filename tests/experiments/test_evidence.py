"""The tables in the documents are the committed CSVs."""

import re
import shutil
from pathlib import Path

import pytest
import torch

import evidence
from gaussian import START, WAYS, cosine, draw_samples, empirical

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / evidence.DOCUMENTS[0]).read_text()


@pytest.mark.parametrize(("document", "tables"), zip(evidence.DOCUMENTS, (16, 1), strict=True), ids=str)
def test_every_table_is_its_csv(document: Path, tables: int) -> None:
    text = (ROOT / document).read_text()
    assert len(evidence.MARKED.findall(text)) == text.count("<!-- results/") >= tables
    assert evidence.filled(text, ROOT) == text


def test_a_figure_that_differs_is_noticed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    path = tmp_path / "results/gaussian/table.csv"
    path.write_text(path.read_text().replace("0.5958", "0.5959"))
    changed = evidence.filled(TEXT, tmp_path)
    assert changed != TEXT and changed.replace("0.5959", "0.5958") == TEXT


def test_an_empty_place_is_filled() -> None:
    marker = "<!-- results/gaussian/table.csv -->\n"
    table = evidence.filled(f"{marker}\nAfter.\n", ROOT)
    assert table.startswith(f"{marker}\n| gradient |") and table.endswith("|\n\nAfter.\n")
    assert evidence.filled(table, ROOT) == table


def test_figures_shown_exist_and_are_small() -> None:
    for target in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / "docs" / target).stat().st_size < 500_000


@pytest.mark.parametrize("step", [0, 5])
def test_rat_points_where_the_empirical_natural_gradient_does(step: int) -> None:
    theta = torch.tensor(START, dtype=torch.float64)
    x = draw_samples(theta, step)
    cosines = {name: cosine(direction(theta, x), empirical(theta, x)) for name, direction in WAYS.items()}
    assert min(cosines["RAT, full coverage"], cosines["RAT, blocks of an eighth"]) > 0.99
    assert cosines["vanilla"] < 0.7
