"""Errors a user can act on: one line that names the thing and the remedy. Standard library only."""


class SteerError(Exception):
    """Something the user asked for can't be done; the text names the thing and the remedy in one line."""


class SteeringFileError(SteerError):
    """A steering file that is missing, truncated, tampered with, or in a format that is never loaded."""


class Refused(SteerError):
    """A backend or a host can't do what was asked; raised before anything is spent."""


class NotApplied(SteerError):
    """What was applied differs from what was requested; the completion is withheld."""


class NotFinite(NotApplied):
    """A steering made the model's numbers NaN or infinite, so there is no answer and no score."""
