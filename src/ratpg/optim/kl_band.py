"""A step size ruled by the KL divergence."""

FACTOR = 1.5


class KLBand:
    """A step size that keeps the KL divergence of an update inside a band.

    Divided by 1.5 when the KL passes the band's upper end, multiplied by 1.5 below its lower end.

    Args:
        value: the first step size.
        band: (low, high) KL, in nats.
        bounds: (least, greatest) step size.
    """

    def __init__(self, value: float, band: tuple[float, float], bounds: tuple[float, float]):
        self.value, self.band, self.bounds = value, band, bounds

    def update(self, kl: float, scale: float = 1.0) -> None:
        """Adapts the step size to the KL of the last update; ``scale`` multiplies the band."""
        low, high = (scale * end for end in self.band)
        if kl > high:
            self.value /= FACTOR
        elif kl < low:
            self.value *= FACTOR
        self.value = min(max(self.value, self.bounds[0]), self.bounds[1])
