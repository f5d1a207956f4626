"""A local Ember: the hosted service's protocol over the local engine and a feature dictionary.

`create_app` makes it; `steer serve` runs it on a port. Brings in fastapi and torch, so a plain import of the package
doesn't import this.
"""

from model_adapters.ember_service.app import create_app

__all__ = ["create_app"]
