"""Files that hold named tensors: how each is read without trusting a word of it.

`zip` bounds the directory of an archive, which `pytorch` and `npz` both are; `safetensors` is
its own. Each refuses what is damaged or hostile within two seconds, and before it takes memory that
is out of proportion to the file.
"""

# A published model has under 1,500 tensors, a training run with averages and the state of AdamW
# four times as many. So many take the slowest reader, PyTorch's, a second.
MAX_TENSORS = 6_000


def reason(error: BaseException) -> str:
    """What a library says of a file, as the end of one line."""
    text = " ".join(str(error).split())[:200].rstrip(".")
    return text if text and text.isprintable() else type(error).__name__
