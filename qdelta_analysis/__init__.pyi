from . import data as data
from . import generators as generators
from .data import load_trained as load_trained
from .inputs import QDeltaInputs as QDeltaInputs
from .tracing import effective_rank as effective_rank
from .tracing import trace as trace
from .transition import Transition as Transition
