"""Returns that others report on MuJoCo, to set beside ours."""

TASKS = ("Swimmer", "Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid", "HumanoidStandup")

POSTER = {
    "RAT": ("271.6 ± 36.3", "2334.6 ± 524.9", "4629.2 ± 287.4", "3156.0 ± 293.6", "2926.6 ± 353.1", "5382.7 ± 117.3",
            "146529.7 ± 2317.6"),
    "ACKTR": ("59.1 ± 13.0", "2138.9 ± 171.6", "3630.9 ± 282.6", "2576.6 ± 154.6", "23.4 ± 3.2", "2571.7 ± 838.7",
              "127928.5 ± 5433.7"),
    "PPO": ("191.3 ± 32.7", "2346.8 ± 202.7", "4146.0 ± 107.5", "2225.3 ± 303.4", "1373.9 ± 26.0", "5357.9 ± 150.9",
            "130014.2 ± 6463.7"),
    "Sophia": ("57.9 ± 5.9", "1104.0 ± 90.6", "899.5 ± 113.2", "1256.0 ± 129.7", "−7.0 ± 1.4", "669.4 ± 56.2",
               "111212.6 ± 13449.9"),
}  # fmt: skip
"""The paper's table, from its poster: shared actor-critic, mean ± standard error over seeds of 10M steps, Ant with 105
dimensions, Humanoid with 376. Its "Sophia" is the damped diagonal of the Fisher matrix, ``diag`` here."""

AUTHORS_HUMANOID = {
    "authors' log, separate": ((0.9e6, 620.0), (1.7e6, 1511.0), (2.5e6, 5498.0), (10e6, 6719.0)),
    "authors' log, shared": ((0.9e6, 811.0), (1.7e6, 5117.0), (10e6, 5065.0)),
}
"""(Steps, return) on Humanoid-v4, read off the one run each that the authors released
(github.com/agent-lab/ICML2026-RAT)."""


def task_of(env: str) -> str:
    """An environment's id without its version, ``Ant-v5 -> Ant``."""
    return env.rpartition("-v")[0]


def mean_of(algorithm: str, task: str) -> float:
    """The poster's mean return."""
    return float(POSTER[algorithm][TASKS.index(task)].split(" ± ")[0].replace("−", "-"))
