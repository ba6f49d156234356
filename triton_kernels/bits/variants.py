"""What the code of a product depends on, so that it is compiled ahead of time once for many shapes."""

from __future__ import annotations

from typing import NamedTuple

from lowbit.formats import PRECISIONS
from lowbit.tuning import Tiles

from .. import shipped
from ..compiled import Launch
from ..gpu import Gpu
from .ahead import EXPERTS, FEATURES, layer_of, product_launch
from .config import GEMV_TOKENS, SPAN_INPUTS, Config, Product, config
from .staging import Kind


class Variant(NamedTuple):
    """A kind of layer, its sizes aside, with tiles.

    Attributes:
        product: of FEATURES rows and inputs, or a little less where rows are no whole turns of the loops, and
            so their scales read one by one.
        split: whether rows are.
    """

    product: Product
    rows: int
    columns: int
    warps: int
    stages: int
    split: bool

    @property
    def name(self) -> str:
        """Of the row in the report."""
        kind = self.product
        layer = f"{sum(kind.widths)} bits{kind.scales}, {kind.columns_per_token} columns a token"
        tile = f"{self.rows}x{self.columns}, {self.warps} warps, {self.stages} stages"
        ragged = ", ragged" if kind.in_features % SPAN_INPUTS else ""
        return f"shipped: {layer}, {tile}{ragged}{', split' * self.split}"

    def launch(self) -> Launch:
        kind, bits = self.product, sum(self.product.widths)
        layer = layer_of(bits, kind.group_size, in_features=kind.in_features, experts=experts_of(kind))
        precision = PRECISIONS.index("fast" if kind.fast else "high")
        tiles = Tiles(1 if self.split else 0, self.rows, self.warps, self.stages)
        gpu = Gpu(2 * FEATURES // self.rows, {str(kind): tiles}, capability=(9, 0))  # which keeps all warps
        tokens = self.columns // kind.columns_per_token
        return product_launch(self.name, layer, Kind(precision, 0), tokens, gpu)


def experts_of(product: Product) -> int:
    """One-bit weights without scales inside the row have a mixture of scales."""
    return EXPERTS if product.widths == (1,) and not product.grouped else 0


def variant_of(product: Product, plan: Config) -> Variant:
    whole = product.whole_turns or not product.grouped
    alike = product._replace(segments=(FEATURES,), in_features=FEATURES if whole else FEATURES - 128)
    sizes = (plan.block_rows, plan.block_columns, plan.warps, plan.stages)
    return Variant(alike, *sizes, plan.splits > 1)


def shipped_variants(capability: tuple[int, int]) -> list[Variant]:
    """Those of the shipped tiles, for as few and as many tokens as they serve."""
    found = set()
    for multiprocessors, table in shipped.tables(capability).items():
        gpu = Gpu(multiprocessors, capability=capability, shipped=table)
        for key in table:
            product = Product.parse(key)
            found |= {variant_of(product, config(product, tokens, gpu)) for tokens in (1, GEMV_TOKENS)}
    return sorted(found)
