"""What the README shows is what works."""

import csv
import re
from pathlib import Path

import torch

from ratpg.cli import USAGE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROSE = " ".join(README.split())


def test_the_facade_example_runs_and_leaves_the_natural_gradient() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(code, names)
    direction = names["step"].direction
    for name, parameter in names["actor"].named_parameters():
        torch.testing.assert_close(parameter.grad, -direction[name], rtol=1e-4, atol=1e-6)


def test_every_command_shown_exists() -> None:
    shown = set(re.findall(r"^    ratpg (\w+)", README, re.MULTILINE))
    assert shown == {"train", "resume", "eval", "plot", "video", "export", "bench", "reproduce"}
    assert shown <= {line.split()[0] for line in USAGE.splitlines() if line.startswith("  ")}


def test_every_make_target_shown_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"make ([\w-]+)", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_table_of_the_results_is_shown_where_it_is_described() -> None:
    tables = list((ROOT / "results").glob("*/table.md"))
    assert tables
    for path in tables:
        beside = path.with_name("README.md")
        text = README + (beside.read_text() if beside.exists() else "")
        assert path.read_text().strip() in text, path


def test_the_speeds_shown_are_those_recorded() -> None:
    for table in ("throughput/simulator.md", "time_to_return/summary.md"):
        assert (ROOT / "results" / table).read_text().strip() in README
    with (ROOT / "results/throughput/peers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for ours in ("RAT", "PPO", "simulator + operations of RAT", "simulator + products of RAT"):
        ratios = [row["ratio"] for row in rows if row["what"] == ours and row["of"] == "SB3 PPO"]
        assert f"{', '.join(ratios[:-1])} and {ratios[-1]}" in PROSE
    (to_trpo,) = (
        row["ratio"]
        for row in rows
        if (row["environment"], row["what"], row["of"]) == ("Hopper-v4", "RAT", "SB3-contrib TRPO")
    )
    assert f"RAT is {to_trpo} times as fast as SB3-contrib's TRPO on Hopper-v4" in PROSE


def test_the_files_linked_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
