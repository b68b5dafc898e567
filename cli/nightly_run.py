"""What `redecode nightly` needs of the optimizer, in one place that is imported when it is asked for."""

from redecode.optimizer.nightly.errors import Halted
from redecode.optimizer.nightly.night import Nightly
from redecode.optimizer.nightly.tuning import refused

__all__ = ["Halted", "Nightly", "refused"]
