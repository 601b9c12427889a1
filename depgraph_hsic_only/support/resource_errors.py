"""What a machine ran out of, told from the errors of the many libraries that notice it."""

import errno

_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_TORCH_WRITES = ("PytorchStreamWriter failed", "unexpected pos")  # what torch.save says instead of why
_MEMORY = (
    *("out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"),  # GPUs
    *("can't allocate memory", "Insufficient memory", "bad allocation", "std::bad_alloc"),  # PyTorch, OpenCV, ONNX
    *("out of shared memory", "killed by signal"),  # processes that load data
)


def storage_reason(error: BaseException | None) -> str | None:
    """What is wrong with the storage, where that is what an error tells of; else None."""
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return str(error.strerror) if error.filename is None else f"{error.strerror}: {error.filename}"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_WRITES):
        return "it could not be written to the end"
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error tells that the memory, a GPU's or the machine's, was not enough."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(words.lower() in str(error).lower() for words in _MEMORY)
