"""How numbers are shown."""

from __future__ import annotations

__all__ = ["metric_value"]


def metric_value(number: float) -> str:
    """Return a metric: what is like percents with two digits, what is small with four.

    >>> metric_value(72.8312), metric_value(0.9875)
    ('72.83', '0.9875')
    """
    return f"{number:.2f}" if abs(number) >= 10 or number == 0 else f"{number:.4g}"
