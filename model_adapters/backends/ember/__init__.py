"""Client of an Ember service, hosted or local. No torch, no harness; httpx only."""

from model_adapters.backends.ember.backend import HOSTED, IN_PROCESS, EmberBackend, open_ember, service_address
from model_adapters.backends.ember.call import EmberError
from model_adapters.backends.ember.key import Key
from model_adapters.backends.ember.patience import Patience

__all__ = ["HOSTED", "IN_PROCESS", "EmberBackend", "EmberError", "Key", "Patience", "open_ember", "service_address"]
