"""A sweep seen over two of its axes."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .store import DONE, FAILED


def cells(data: xr.Dataset, number: str, x: str, y: str) -> xr.Dataset:
    """Return one number of a sweep over two axes: over the others, the mean of what is done and finite.

    Dims (y, x): `mean`, NaN where nothing is; how many points are `done`, `failed` and `finite`; and `error`, what the
    first failed one raised. Attributes: `number`, `points` (how many a cell has) and `over`, the other axes with more
    than one value. A number that no point has yet is missing everywhere.

    Raises ValueError for axes that the sweep has not, or twice the same.
    """
    if x == y or not {x, y} <= set(data.status.dims):
        raise ValueError(f"x, y are {x!r}, {y!r}; expected two axes among {', '.join(map(str, data.status.dims))}.")
    others = [name for name in data.status.dims if name not in (x, y)]
    status = data.status.transpose(y, x, *others)
    values = data[number].transpose(y, x, *others) if number in data else status.astype(float) * np.nan
    finite = np.isfinite(values)
    count = finite.sum(others)
    errors = data.error.transpose(y, x, *others).values.reshape(*count.shape, -1)
    first = [[next(filter(None, cell.tolist()), "") for cell in row] for row in errors]
    return xr.Dataset(
        {
            "mean": values.where(finite, 0).sum(others) / count.where(count > 0),
            "done": (status == DONE).sum(others),
            "failed": (status == FAILED).sum(others),
            "finite": count,
            "error": ((y, x), np.array(first, dtype=object)),
        },
        attrs={
            "number": number,
            "points": status.size // count.size,
            "over": {str(name): data.sizes[name] for name in others if data.sizes[name] > 1},
        },
    )
