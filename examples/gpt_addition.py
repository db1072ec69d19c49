"""A small GPT learns to add from right and wrong alone: RAT beside a GRPO-style policy gradient.

    python examples/gpt_addition.py

About a million parameters, one character a token. The model first sees some worked sums, until it is right every third
time or so; then it answers "47+38=" in its own way, and all it is told is whether the answer is right. Both methods
start from the same model, answer as many prompts, several times each, and use the same advantages: a reward less the
mean of its prompt's answers, divided by their standard deviation (GRPO: Shao et al. 2024, arXiv 2402.03300, without the
KL penalty). A completion's tokens are summed into one log-probability, so that a sample is an answer.

Writes ``curves.csv`` and ``curves.png``. Two to five minutes on two cores.
"""

import argparse
import copy
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ratpg import AdvantageTransform

ALPHABET = "0123456789+="
PROMPT, ANSWER = len("12+34="), 3  # answers are written with three digits: 007
WIDTH, HEADS, LAYERS = 144, 6, 4
PROMPTS, GROUP = 32, 8
BATCH = PROMPTS * GROUP


class Block(nn.Module):
    """Causal self-attention and a perceptron, each behind a norm and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm_1(x)).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2)  # [B, 3 heads, T, d]
        mixed = F.scaled_dot_product_attention(*heads.chunk(3, 1), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    """Tokens ``[B, T]`` -> logits of the next ones ``[B, T, len(ALPHABET)]``."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(len(ALPHABET), WIDTH)
        self.position = nn.Embedding(PROMPT + ANSWER, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(ALPHABET))

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        logits: Tensor = self.head(self.norm(self.blocks(self.token(tokens) + self.position(positions))))
        return logits


def digits(numbers: Tensor, count: int) -> Tensor:
    """Decimal digits ``[..., count]``, the first first; a digit's token is itself."""
    return numbers[..., None] // 10 ** torch.arange(count).flip(0) % 10


def problems(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Prompts ``[count, PROMPT]``, and the digits of their sums ``[count, ANSWER]``."""
    a, b = torch.randint(100, (2, count), generator=generator)
    signs = (torch.full((count, 1), ALPHABET.index(sign)) for sign in "+=")
    plus, equals = signs
    return torch.cat([digits(a, 2), plus, digits(b, 2), equals], 1), digits(a + b, ANSWER)


@torch.no_grad()
def complete(model: GPT, prompts: Tensor, generator: torch.Generator | None) -> Tensor:
    """Answers ``[B, ANSWER]``, sampled; the likeliest tokens without a generator."""
    tokens = prompts
    for _ in range(ANSWER):
        logits = model(tokens)[:, -1]
        if generator is None:
            new = logits.argmax(-1, keepdim=True)
        else:
            new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, new], 1)
    return tokens[:, PROMPT:]


def log_probability(model: GPT, prompts: Tensor, answers: Tensor) -> Tensor:
    """Of whole answers, ``[B]``: the sum over their tokens."""
    logits = model(torch.cat([prompts, answers[:, :-1]], 1))[:, PROMPT - 1 :]
    return logits.log_softmax(-1).gather(-1, answers[..., None]).squeeze(-1).sum(-1)


def accuracy(model: GPT) -> float:
    """Share of 1000 prompts, always the same, that the likeliest answer is right for."""
    prompts, sums = problems(1000, torch.Generator().manual_seed(1))
    return float((complete(model, prompts, None) == sums).all(1).float().mean())


def pretrain(model: GPT, until: float) -> None:
    """Worked sums, by maximum likelihood."""
    generator = torch.Generator().manual_seed(2)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3)
    while accuracy(model) < until:
        for _ in range(25):
            loss = -log_probability(model, *problems(BATCH, generator)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()


@dataclass
class Answers:
    """One round: prompts, each answered ``GROUP`` times."""

    prompts: Tensor
    answers: Tensor
    advantages: Tensor
    reward: float


def rounds(model: GPT, count: int, seed: int) -> Iterator[Answers]:
    """Lets the model answer, and compares each answer with the others to its prompt."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        prompts, sums = problems(PROMPTS, generator)
        prompts, sums = (x.repeat_interleave(GROUP, 0) for x in (prompts, sums))
        answers = complete(model, prompts, generator)
        rewards = (answers == sums).all(1).float()
        groups = rewards.view(PROMPTS, GROUP)
        advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
        yield Answers(prompts, answers, advantages.flatten(), float(rewards.mean()))


def grpo(model: GPT, learning_rate: float = 3e-5, clip: float = 0.2) -> Callable[[Answers], None]:
    """Two passes of Adam on the clipped surrogate, four mini-batches each."""
    adam = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(3)

    def update(given: Answers) -> None:
        with torch.no_grad():
            before = log_probability(model, given.prompts, given.answers)
        for _ in range(2):
            for rows in torch.randperm(BATCH, generator=generator).chunk(4):
                ratio = (log_probability(model, given.prompts[rows], given.answers[rows]) - before[rows]).exp()
                y = given.advantages[rows]
                loss = -torch.minimum(ratio * y, ratio.clamp(1 - clip, 1 + clip) * y).mean()
                adam.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                adam.step()

    return update


def rat(model: GPT, damping: float = 10.0, target_kl: float = 0.02) -> Callable[[Answers], None]:
    """One natural-gradient step a round, as long as the KL divergence allows.

    The damping is large: 256 answers say little of a million parameters, and a step that fits them all forgets others.
    """
    transform = AdvantageTransform(model, damping)

    def update(given: Answers) -> None:
        with transform.record():
            log_prob = log_probability(model, given.prompts, given.answers)
        step = transform(log_prob, given.advantages)
        size = min(1.0, float((target_kl / step.predicted_kl.clamp(min=1e-12)).sqrt()))
        (-size * (log_prob * step.advantage).mean()).backward()  # the natural gradient, by ordinary backpropagation
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= parameter.grad
                parameter.grad = None

    return update


def main() -> None:
    """Both methods from the same model; prints, tabulates and draws them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=150, help="how often the model answers and learns")
    parser.add_argument("--output", type=Path, default=Path("results/gpt_addition"), help="folder of table and figure")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    start = GPT()
    print(f"{sum(p.numel() for p in start.parameters()):,} parameters")
    pretrain(start, until=0.3)
    rows: list[tuple[str, int, str, str, str]] = []
    for name, method in (("RAT", rat), ("GRPO", grpo)):
        model, began = copy.deepcopy(start), time.perf_counter()
        update = method(model)
        for number, given in enumerate(rounds(model, arguments.rounds, seed=4)):
            update(given)
            if number % 10 == 9 or number == 0:
                seconds = time.perf_counter() - began
                figures = f"{given.reward:.3f}", f"{accuracy(model):.3f}", f"{seconds:.0f}"
                rows.append((name, (number + 1) * BATCH, *figures))
                print(*rows[-1], sep="\t", flush=True)
    write(rows, accuracy(start), arguments.output)


def write(rows: list[tuple[str, int, str, str, str]], at_start: float, folder: Path) -> None:
    """The table and the figure."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "answers", "reward", "accuracy", "seconds"])
        writer.writerows([("both", 0, "", f"{at_start:.3f}", 0), *rows])
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in ("RAT", "GRPO"):
        points = [(0, at_start)] + [(row[1], float(row[3])) for row in rows if row[0] == name]
        axes.plot(*zip(*points, strict=True), label=name)
    axes.set(xlabel="answers", ylabel="share of sums that are right", ylim=(0, 1))
    axes.legend()
    figure.savefig(folder / "curves.png", dpi=120)


if __name__ == "__main__":
    main()
