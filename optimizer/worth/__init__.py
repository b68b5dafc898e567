"""Fine-tune or prompt: what the constant part of prompts costs at the recorded volume, against training it in.

volume.py      from a store: calls a day and step, their tokens, how much of a prompt is always the same
calculator.py  costs of both ways, break-even, how much depends on which assumption
telling.py     the same in words
"""

from redecode.optimizer.worth.calculator import Assumptions, Worth, worth
from redecode.optimizer.worth.telling import lines
from redecode.optimizer.worth.volume import Volume, VolumeError, Ways, volume_of

__all__ = ["Assumptions", "Volume", "VolumeError", "Ways", "Worth", "lines", "volume_of", "worth"]
