"""What all tables share: how a value is written."""

NOT_AVAILABLE = "n/a"


def cell(value: float | str | None) -> str:
    """A value as tables write it: what is absent is n/a, and text has no tab and no line break."""
    if value is None:
        return NOT_AVAILABLE
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split())
