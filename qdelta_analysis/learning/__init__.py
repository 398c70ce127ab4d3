"""Learning: the Q-Delta layer and its baselines, a small language model, its corpus and its training loop.

Names are loaded at first use: what is for Hugging Face needs the extra `models`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
