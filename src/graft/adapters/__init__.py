"""Adapter methods by PEFT's own names and keys.

PEFT's configuration classes already name, type and document every key, so they are used as they are instead of being
declared a second time: a new PEFT method works here without new code. The price is that their checks are thin (an
unknown key is a TypeError, a wrong target a long message, a wrong type an error deep in a layer), so keys, types and
targets are checked here first and refused with their dotted path.
"""

from graft.adapters.attachment import AdapterSummary, attach, columns_of, describe, preview, wrap
from graft.adapters.heads import head_alone, head_of, trained_modules
from graft.adapters.methods import Key, keys, methods, peft_config
from graft.adapters.procedure import Procedure, procedure_of
from graft.adapters.refusals import refuse_length, refuse_quantized, virtual_tokens
from graft.adapters.section import AdapterConfig
from graft.adapters.trunk import Layers, Trunk, UnfitError, frozen_layers, layer_lists, trunk_of
from graft.adapters.tuners import Method, column_methods, register
from graft.adapters.unfreezing import as_the_base_was, put_changed, unfrozen

__all__ = [
    "AdapterConfig",
    "AdapterSummary",
    "Key",
    "Layers",
    "Method",
    "Procedure",
    "Trunk",
    "UnfitError",
    "as_the_base_was",
    "attach",
    "column_methods",
    "columns_of",
    "describe",
    "frozen_layers",
    "head_alone",
    "head_of",
    "keys",
    "layer_lists",
    "methods",
    "peft_config",
    "preview",
    "procedure_of",
    "put_changed",
    "refuse_length",
    "refuse_quantized",
    "register",
    "trained_modules",
    "trunk_of",
    "unfrozen",
    "virtual_tokens",
    "wrap",
]
