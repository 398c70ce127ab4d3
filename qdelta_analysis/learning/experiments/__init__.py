"""Experiments: tasks, rules and seeds run to the end, once each, and the tables that come out.

`plan(name)` says what is compared, `run_experiment` runs what is missing, `results` and `summary` are the tables.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
