"""What a machine ran out of, told from the errors of the many libraries that notice it."""

import errno

_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_TORCH_WRITES = ("PytorchStreamWriter failed", "unexpected pos")  # what torch.save says instead of why
_MEMORY = (
    *("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"),  # GPUs
    *("can't allocate memory", "Insufficient memory", "bad allocation", "std::bad_alloc"),  # PyTorch, OpenCV, ONNX
    # Processes that load data: a full /dev/shm, and the kernel, which kills what needs most. Other signals are faults.
    *("out of shared memory", "killed by signal: Killed"),
)


def storage_reason(error: BaseException | None) -> str | None:
    """What is wrong with the storage, where that is what an error tells of; else None."""
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return str(error.strerror) if error.filename is None else f"{error.strerror}: {error.filename}"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_WRITES):
        return "it could not be written to the end"
    return None


def out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, tells that the memory, a GPU's or the machine's, is too small.

    PyTorch's loaders say "exited unexpectedly", and how only in the error before.
    """
    if error is None:
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(words.lower() in str(error).lower() for words in _MEMORY) or out_of_memory(error.__cause__)
