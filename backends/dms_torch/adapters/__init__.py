"""Puts schedulers into multimodal language models of Hugging Face transformers.

Places are found by structure, so that nothing here imports transformers. Needs the extra
``transformers``.
"""

from __future__ import annotations

from dms_torch.adapters.attach import Attached, attach, pool_tokens
from dms_torch.adapters.calibrate import calibrate
from dms_torch.adapters.decision import Decision
from dms_torch.adapters.explain import Explanation
from dms_torch.adapters.tokens import Pooled

__all__ = ["Attached", "Decision", "Explanation", "Pooled", "attach", "calibrate", "pool_tokens"]
