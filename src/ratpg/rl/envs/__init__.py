"""Vector environments over EnvPool and Gymnasium."""

from ratpg.rl.envs.vec_env import Backend, UnknownEnvironment, VecEnv, make_vec

__all__ = ["Backend", "UnknownEnvironment", "VecEnv", "make_vec"]
