"""The example of a language model: a round of each method, from start to figure."""

import csv
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "gpt_addition.py"


def test_it_trains_both_ways_and_shows_both_curves(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--rounds", "1", "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "1,007,868 parameters" in result.stdout
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["both", "RAT", "GRPO"]
    start, rat, grpo = (float(row["accuracy"]) for row in rows)
    assert start >= 0.3
    assert min(rat, grpo) > start - 0.1
    assert (tmp_path / "curves.png").stat().st_size > 10_000
