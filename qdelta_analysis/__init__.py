"""The Q-Delta toolkit: transition matrices, traces and views of delta-rule linear attention.

Names are loaded at first use, so that `qdelta --help` need not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
