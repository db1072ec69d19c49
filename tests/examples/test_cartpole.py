"""The agent in one file learns."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "cartpole.py"


def test_it_learns_to_balance() -> None:
    command = [sys.executable, str(SCRIPT), "--steps", "20000"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    returns = [float(text) for text in re.findall(r"return (\S+) ", result.stdout)]
    assert len(returns) == 10
    assert returns[0] < 60 < 120 < returns[-1]
