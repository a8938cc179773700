"""Repair of a sparse weight: each row's kept elements compensate for its zeros.

A row w of a layer y = W x keeps the elements S and loses the others R. With the second moment C of
the inputs the change of the kept elements that restores the output best is

    d = argmin E|w_R x_R - d x_S|² + λ |d|²,    (C_SS + λ I) d = C_SR w_R,

the same problem as for whole inputs (`compensate`), with another S in every row (Optimal Brain
Surgeon, Hassibi & Stork 1993; SparseGPT, Frantar & Alistarh 2023, arXiv:2301.00774). All rows are
solved at once by conjugate gradients (Hestenes & Stiefel 1952) that never leave S: one product with
C a step, instead of a factorization a row. The objective falls with each step from that of d = 0,
so stopping early is never worse than no repair.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-4  # λ over the mean of the inputs' variances
STEPS = 40
_DONE = 1e-6  # the residual's square over the first one's, where the steps end


def refit_rows(
    weight: Tensor,
    pruned: Tensor,
    second: Tensor,
    *,
    ridge: float = RIDGE,
    steps: int = STEPS,
) -> Tensor:
    """The rows with zeros where `pruned`, and the other elements changed to make up for them.

    `weight` and `pruned` are (rows, d), `second` (d, d) is the inputs' second moment (centered,
    where a shift of the output can be absorbed).

    >>> second = torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # half of the lost input is in the other
    >>> refit_rows(torch.tensor([[1.0, 1.0]]), torch.tensor([[False, True]]), second, ridge=1e-12)
    tensor([[1.5000, 0.0000]])
    """
    kept = ~pruned
    scale = float(second.diagonal().mean())
    if scale <= 0.0:  # constant inputs
        return weight * kept
    change = solve_rows((weight * pruned) @ second, kept, second, ridge * scale, steps=steps)
    return torch.where(kept, weight + change, 0.0)


def solve_rows(
    cross: Tensor, kept: Tensor, second: Tensor, damping: float, *, steps: int = STEPS
) -> Tensor:
    """The rows d, 0 where not `kept`, with d (C + λ I) = `cross` where it is.

    `cross` and `kept` are (rows, d), `second` C (d, d), and `damping` is λ > 0.

    >>> kept = torch.tensor([[True, False]])
    >>> solve_rows(torch.tensor([[3.0, 5.0]]), kept, torch.eye(2), 0.5)
    tensor([[2., 0.]])
    """
    inverse = 1.0 / (second.diagonal() + damping)  # preconditioner
    residual = cross * kept
    change = torch.zeros_like(cross)
    ahead = step = residual * inverse
    size = (residual * ahead).sum(1, keepdim=True)
    first = size.clamp_min(torch.finfo(size.dtype).tiny)
    for _ in range(steps):
        if bool((size <= _DONE * first).all()):
            break
        image = (step @ second) * kept + damping * step
        curvature = (step * image).sum(1, keepdim=True)
        length = torch.where(curvature > 0.0, size / curvature, 0.0)
        change = change + length * step
        residual = residual - length * image
        ahead = residual * inverse
        before, size = size, (residual * ahead).sum(1, keepdim=True)
        step = ahead + torch.where(before > 0.0, size / before, 0.0) * step
    return change
