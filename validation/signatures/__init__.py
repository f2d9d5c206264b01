"""Signatures of datasets whose harm was measured: a signed library, and what a new dataset is like in it."""

from validation.signatures.library import Library, SignatureError, merge
from validation.signatures.record import FAMILIES, Outcome, Provenance, Signature, read_key

__all__ = ["FAMILIES", "Library", "Outcome", "Provenance", "Signature", "SignatureError", "merge", "read_key"]
