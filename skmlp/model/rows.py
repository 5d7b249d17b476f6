"""Some rows of a sparse matrix, as the kernels take them."""

from __future__ import annotations

from skmlp.arrays import Array


class SparseRows:
    """Some rows of a CSR matrix, by number: nothing is copied.

    `parts` are ``data``, ``indices`` and ``indptr`` of the whole matrix.
    """

    __slots__ = ("parts", "rows", "shape")

    def __init__(
        self, parts: tuple[Array, Array, Array], rows: Array, n_features: int
    ) -> None:
        self.parts = parts
        self.rows = rows
        self.shape = (len(rows), n_features)
