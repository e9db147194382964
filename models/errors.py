"""Every error that streamer raises on purpose; each message is one line that says what to do.

    StreamerError
    |- SpecError          a model description that cannot be built
    |- CheckpointError    a model file that is missing, damaged, foreign or unsafe
    |- CorpusError        audio that cannot be trained on
    |- DeviceError        a sound device that is not there or refuses
    `- ControlError       a control that does not exist or a value it cannot take

The lowest layer owns the hierarchy, so that models, kernels and the instrument can all raise from it.
"""


class StreamerError(Exception):
    """Base of all errors that the command line prints as one line and exit code 2."""


class SpecError(StreamerError, ValueError):
    """A model description that cannot be built."""


class CheckpointError(StreamerError):
    """A model file that is missing, damaged, foreign or unsafe."""


class CorpusError(StreamerError):
    """Audio that cannot be trained on."""


class DeviceError(StreamerError):
    """A sound device that is not there, refuses a setting, or vanished."""


class ControlError(StreamerError, ValueError):
    """A control that does not exist, or a value that it cannot take."""
