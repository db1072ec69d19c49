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
    "authors' log, separate": (
        (81920, 336), (163840, 415), (327680, 500), (491520, 545), (655360, 597), (819200, 602), (983040, 636),
        (1474560, 905), (1966080, 2833), (3031040, 5580), (4997120, 6039), (7536640, 6640), (9994240, 6719),
    ),
    "authors' log, shared": (
        (81920, 279), (163840, 402), (327680, 483), (491520, 537), (655360, 606), (819200, 632), (983040, 961),
        (1474560, 4625), (1966080, 5363), (3031040, 5651), (4997120, 5505), (7536640, 5804), (9994240, 5065),
    ),
}  # fmt: skip
"""(Steps, return) on Humanoid-v4, read off the one run each that the authors released
(github.com/agent-lab/ICML2026-RAT), whose logs have 122 rows."""


def task_of(env: str) -> str:
    """An environment's id without its version, ``Ant-v5 -> Ant``."""
    return env.rpartition("-v")[0]


def mean_of(algorithm: str, task: str) -> float:
    """The poster's mean return."""
    return float(POSTER[algorithm][TASKS.index(task)].split(" ± ")[0].replace("−", "-"))
