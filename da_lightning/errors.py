"""Mistakes a user can make, each told in one sentence: what was expected, what was found, what to change."""

from da_lightning.names import shown


class UserError(Exception):
    """A mistake in a command, a configuration, a folder or a file; the front door prints it without a traceback.

    What a terminal would obey in a name, as an escape sequence, is made visible.
    """

    def __str__(self) -> str:
        return shown(super().__str__())


class DataError(UserError):
    """A data set, an image or a label map that is not what its layout promises."""


class CheckpointError(UserError):
    """A checkpoint or a weight file that cannot be read or does not fit the network."""
