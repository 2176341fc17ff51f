"""What can be wrong, by name. How each one is answered stands in `entrypoints/errors.py`."""


class WorkerError(Exception):
    """Something that this service can say no about."""


class JobNotFound(WorkerError):
    """There is no such job, or it is somebody else's, which looks the same."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id}.")
        self.job_id = job_id


class CommandIdReused(WorkerError):
    """The command id belongs to another request of the same person."""

    def __init__(self, command_id: str, job_id: str) -> None:
        super().__init__(f"The command id {command_id} was used for another import, job {job_id}.")
        self.command_id = command_id
        self.job_id = job_id


class FileEmpty(WorkerError):
    """The upload has no bytes."""

    def __init__(self) -> None:
        super().__init__("The file is empty.")


class FileTooLarge(WorkerError):
    """The file is larger than this service takes."""

    def __init__(self, maximum: int) -> None:
        super().__init__(f"The file is larger than the {maximum} bytes that an import may have.")
        self.maximum = maximum


class SizeMismatch(WorkerError):
    """Not as many bytes came as the header announced."""

    def __init__(self, *, announced: int, received: int) -> None:
        super().__init__(
            f"{announced} bytes were announced and {received} came: the upload was cut off, or is another file."
        )
        self.announced = announced
        self.received = received


class UploadStalled(WorkerError):
    """Nothing came for too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Nothing of the file came for {seconds:g} seconds.")


class UploadForgotten(WorkerError):
    """The upload was given up by the sweep while it was still coming, because it had stood still for too long."""

    def __init__(self) -> None:
        super().__init__("The upload stood still for so long that it was given up. Send it again.")


class SourceRefused(WorkerError):
    """The URL that the file is to be fetched from is not one that is asked for here."""


class LeaseLost(WorkerError):
    """Another worker has the job by now, or it has ended; whatever this worker still does about it must not count."""

    def __init__(self, job_id: object, attempt: int) -> None:
        super().__init__(f"attempt {attempt} at job {job_id} is no longer the current one")
