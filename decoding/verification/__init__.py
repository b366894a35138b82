"""The verification step: drafted tokens and two sets of logits to accepted lengths and next tokens.

`verify` is the door for rules that judge tokens one by one and for block verification. The loop asks `verifier_of` once
per call, and then knows no kinds of rules: any other block rule, several drafts and controllers have verifiers too.
"""

from decoding.verification.step import Backend, Verified, verify
from decoding.verification.verifiers import Decision, Scored, Verifier, verifier_of

__all__ = ["Backend", "Decision", "Scored", "Verified", "Verifier", "verifier_of", "verify"]
