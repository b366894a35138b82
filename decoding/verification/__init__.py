"""The verification step: drafted tokens and two sets of logits to accepted lengths and next tokens.

`verify` is the door for rules that judge tokens one by one and for block verification; `verify_block_rule` takes any
other block rule, `verify_several` several drafts of a text.
"""

from decoding.verification.block import verify_block_rule
from decoding.verification.several import verify_several
from decoding.verification.step import Backend, Verified, verify

__all__ = ["Backend", "Verified", "verify", "verify_block_rule", "verify_several"]
