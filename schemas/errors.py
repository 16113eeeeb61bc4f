"""What can go wrong, and the exit code of each kind.

    EmbedmillError              70  a bug of ours
    ├── SpecError                2  the spec or the command line
    ├── InputError               3  a shard, a column, no input at all
    ├── QualityError             4  a quality gate, or verify found problems
    ├── FaultBudgetError         5  too many rows failed
    ├── ConflictError            6  the output belongs to something else
    ├── StorageError             7  the store refuses, lies or is full
    │   └── StoreAway               or cannot be reached at all
    ├── ModelError               8  model files or an encoder
    ├── TryAgain                75  cluster unreachable, resources absent
    └── Interrupted        130/143  stopped by a signal, resumable

An error is one line: CODE: where: what; what to do. All fields are positional arguments of
`Exception`, because an exception that hides one from `args` loses its type on the way through Ray.
"""


class EmbedmillError(Exception):
    """A failure with a stable code, the place it concerns, and what to do about it."""

    exit_code = 70

    def __init__(self, code: str, where: str, what: str, do: str = "") -> None:
        super().__init__(code, where, what, do)
        self.code, self.where, self.what, self.do = code, where, what, do

    def __str__(self) -> str:
        """CODE: where: what; do."""
        text = ": ".join(part for part in (self.code, self.where, self.what) if part)
        return f"{text}; {self.do}" if self.do else text


class SpecError(EmbedmillError):
    """The spec or the command line is wrong. `what` has one problem a line."""

    exit_code = 2

    def __str__(self) -> str:
        """The problems alone: each already names its file, line and field."""
        return self.what


class InputError(EmbedmillError):
    """A shard or a column cannot be used."""

    exit_code = 3


class QualityError(EmbedmillError):
    """The vectors are there, but a gate says no."""

    exit_code = 4


class FaultBudgetError(EmbedmillError):
    """More rows failed than `output.quality.fault_rate` allows; finished parts stay."""

    exit_code = 5


class ConflictError(EmbedmillError):
    """The output belongs to another fingerprint, plan or format."""

    exit_code = 6


class StorageError(EmbedmillError):
    """The store refused, lied or is full."""

    exit_code = 7


class StoreAway(StorageError):
    """No answer, or no right to one: it says nothing of the objects that were asked for."""


class ModelError(EmbedmillError):
    """The model's files or its encoder cannot be used."""

    exit_code = 8


class TryAgain(EmbedmillError):
    """Nothing is wrong with the job: the cluster is away or has no such resources."""

    exit_code = 75


class Interrupted(EmbedmillError):
    """A signal ended the run; the same command resumes it."""

    exit_code = 130
