"""Tasks to train and measure models on: generated and seeded; recall, a needle in text, state tracking, real text.

Every task says how many tokens it knows (`vocabulary`), draws the training batch of a seed and a step (`examples`), and
measures a model on examples that no training batch holds but by chance, the same for every model (`scores`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
