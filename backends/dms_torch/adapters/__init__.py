"""Puts schedulers into multimodal language models of Hugging Face transformers.

Places are found by structure, so that nothing here imports transformers. Needs the extra
``transformers``.
"""

from __future__ import annotations

from dms_torch.adapters.attach import Attached, Decision, attach, pool_tokens
from dms_torch.adapters.tokens import Pooled

__all__ = ["Attached", "Decision", "Pooled", "attach", "pool_tokens"]
