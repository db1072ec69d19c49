"""Several threads ask one transform, or have precision set, at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from ratpg.natgrad import AdvantageTransform, CaptureError
from ratpg.natgrad.precision import full_precision


def test_threads_that_ask_one_recording_get_right_answers() -> None:
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    transform, x = AdvantageTransform(net), torch.randn(300, 3, dtype=torch.float64)
    with transform.record():
        log_prob = -net(x).square().sum(1)
    advantages = torch.randn(2, 300, dtype=torch.float64)
    expected = [transform(log_prob, y).advantage for y in advantages]

    def wrong(which: int) -> int:
        answers = [transform(log_prob, advantages[which]).advantage for _ in range(15)]
        return sum(not torch.allclose(answer, expected[which], rtol=1e-9) for answer in answers)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(wrong, range(2))) == [0, 0]


def test_a_recording_takes_no_calls_of_other_threads() -> None:
    net, x = nn.Linear(3, 2).double(), torch.randn(9, 3, dtype=torch.float64)
    transform, others = AdvantageTransform(net), list[Tensor]()
    with transform.record():
        log_prob = -net(x).square().sum(1)
        thread = threading.Thread(target=lambda: others.append(net(x)))
        thread.start()
        thread.join()
        assert len(transform._recorder.calls) == 1
    transform(log_prob, torch.ones_like(log_prob))
    assert others[0].requires_grad


def test_two_threads_cannot_record_at_once() -> None:
    net, errors = nn.Linear(3, 2), list[BaseException]()
    transform = AdvantageTransform(net)

    def record() -> None:
        try:
            with transform.record():
                pass
        except CaptureError as error:
            errors.append(error)

    with transform.record():
        thread = threading.Thread(target=record)
        thread.start()
        thread.join()
        log_prob = net(torch.randn(4, 3)).sum(1)
    (error,) = errors
    assert "another thread" in str(error)
    transform(log_prob, torch.ones(4))
    record()
    assert len(errors) == 1


def test_threads_that_record_and_step_are_right_or_told_so() -> None:
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    transform, found = AdvantageTransform(net), list[float | str]()

    def work() -> None:
        for _ in range(20):
            x = torch.randn(64, 3, dtype=torch.float64)
            try:
                with transform.record():
                    log_prob = -net(x).square().sum(1)
                step = transform(log_prob, torch.ones_like(log_prob))
            except CaptureError as error:
                found.append(str(error))
            else:
                gradients = torch.autograd.grad((log_prob * step.advantage).mean(), list(net.parameters()))
                pairs = zip(gradients, step.direction.values(), strict=True)
                found.append(max(float((g - direction).abs().max()) for g, direction in pairs))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result()
    assert max(error for error in found if isinstance(error, float)) <= 1e-10
    assert len(found) == 40


@pytest.mark.parametrize("first_in_is_first_out", [True, False])
def test_precision_is_put_back_whatever_the_order(first_in_is_first_out: bool) -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        blocks = [full_precision(), full_precision()]
        entered, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

        def run(which: int) -> None:
            with blocks[which]:
                entered[which].set()
                leave[which].wait(10)

        threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
        for which, thread in enumerate(threads):
            thread.start()
            entered[which].wait(10)
        for which in (0, 1) if first_in_is_first_out else (1, 0):
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            leave[which].set()
            threads[which].join()
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
