"""What a calibration ends with that has no steering to show for it."""

UNCONFIRMED = 3
"""Exit code of a calibration that ran and found nothing that is confirmed, and of a match that isn't near."""


class Unconfirmed(Exception):
    """A calibration that ran to its end without a steering to show for it; the text says why, in one line."""
