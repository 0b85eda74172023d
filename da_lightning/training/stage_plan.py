"""What a stage of several trainings is made of."""

from abc import ABC, abstractmethod
from typing import Any


class StagePlan(ABC):
    """The trainings of a stage; ``stages.<name>.each`` builds one."""

    @abstractmethod
    def changes(self) -> dict[str, dict[str, Any]]:
        """What each training changes beyond the stage's own changes, by the training's name."""
