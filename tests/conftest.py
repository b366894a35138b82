"""One deterministic hypothesis profile and one torch thread: a run on any machine draws the same examples."""

import torch
from hypothesis import settings

# derandomize: CI must not fail by luck; deadline: a shared machine stalls for reasons that are not ours
settings.register_profile("deterministic", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("deterministic")
torch.set_num_threads(1)
