"""BiRefNet (and so RMBG-2.0) in plain torch, with the key names of the public checkpoints.

The architecture is that of "Bilateral Reference for High-Resolution Dichotomous Image
Segmentation" (Zheng et al., 2024, https://arxiv.org/abs/2401.03407). Importing this package loads
nothing; `config` and `safetensors_file` need no torch, everything else does.
"""
