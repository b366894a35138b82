"""Who drafts: a model, the text itself, or the target's own first layers."""

from decoding.drafting.early_exit import early_exit
from decoding.drafting.model import ModelDrafter
from decoding.drafting.multi_draft import MultiDraft
from decoding.drafting.prompt_lookup import PromptLookup
from decoding.drafting.protocol import Drafter, Proposal

__all__ = ["Drafter", "ModelDrafter", "PromptLookup", "Proposal", "MultiDraft", "early_exit"]
