"""What each layer's share of the Gram matrix takes, and in which way it is found: the choices made visible."""

from dataclasses import dataclass

from ratpg.natgrad.factors import Factor

BATCHED = "rows, by batched products"
"""How the share of what no layer's factor covers is found."""


@dataclass(frozen=True)
class LayerPlan:
    """One factor.

    Attributes:
        parameters: names of the parameters it covers.
        factor: how its share of ``K`` is found.
        bytes: that it takes; a layer's input, which the graph holds too, counts.
        flops: operations of the share of ``K``, from the diagonal down; 2 for a multiply-add. The backward passes that
            bring rows by batched products, one a sample, are not counted.
    """

    parameters: tuple[str, ...]
    factor: str
    bytes: int
    flops: int


@dataclass(frozen=True)
class Plan:
    """The factors that together are ``H``, in the order in which the backward pass met them.

    Attributes:
        layers: these.
        held: whether all are held from the backward pass to the end of the step; or the fast ones each only until the
            next is there, and after them what batched products bring.
    """

    layers: tuple[LayerPlan, ...]
    held: bool

    @property
    def bytes(self) -> int:
        """Held at a time."""
        together = sum(layer.bytes for layer in self.layers if self.held or layer.factor == BATCHED)
        return max([together, *(layer.bytes for layer in self.layers)])

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    def __str__(self) -> str:
        rows = [(", ".join(layer.parameters), layer.factor, layer.bytes, layer.flops) for layer in self.layers]
        rows.append(("together" if self.held else "one at a time", "", self.bytes, self.flops))
        cells = [("layer", "factor", "MB", "Mflop")]
        cells += [(name, factor, f"{held / 1e6:.2f}", f"{flops / 1e6:.1f}") for name, factor, held, flops in rows]
        w, x, y, z = (max(len(row[column]) for row in cells) for column in range(4))
        lines = [f"{a:{w}}  {b:{x}}  {c:>{y}}  {d:>{z}}" for a, b, c, d in cells]
        return "\n".join(lines)

    __repr__ = __str__


def plan_of(factor: Factor) -> LayerPlan:
    """The plan of a factor."""
    cost = factor.cost()
    return LayerPlan(factor.names, cost.way, cost.bytes, cost.flops)
