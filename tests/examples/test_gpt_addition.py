"""The example of a language model: a round of each method, from start to figure."""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("method", ["rat", "grpo"])
def test_an_update_makes_what_was_right_likelier_and_what_was_wrong_less(method: str) -> None:
    spec = importlib.util.spec_from_file_location("gpt_addition", SCRIPT)
    assert spec is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example  # where its dataclass looks itself up
    spec.loader.exec_module(example)
    torch.manual_seed(0)
    model, generator = example.GPT(), torch.Generator().manual_seed(1)
    prompts, _ = example.problems(example.BATCH, generator)
    answers = example.complete(model, prompts, generator)
    right = torch.arange(example.BATCH) % 3 == 0
    given = example.Answers(prompts, answers, torch.where(right, 1.4, -0.7), 0.0)
    with torch.no_grad():
        before = example.log_probability(model, prompts, answers)
    update = getattr(example, method)(model)
    update(given)
    with torch.no_grad():
        change = example.log_probability(model, prompts, answers) - before
    assert change[right].mean() > change[~right].mean() + 0.01
