"""The codes of `inference` errors that are the GPU's fault and not the picture's."""

from typing import Final

#: Its memory is full, also after its cache was freed.
OUT_OF_MEMORY: Final = "gpu_out_of_memory"
#: Its context is broken: nothing more can be done with it in this process.
GPU_FAULT: Final = "gpu_fault"
